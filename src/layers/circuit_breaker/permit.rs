//! Leave to make one call.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Instant;

use super::circuit::CounterShard;
use super::classification::PANICKED;
use crate::policy::breaker::{CallResult, Grant};
use crate::rt::clock;
use crate::rt::sync::{Mutex, lock};

/// Leave to make one call, which says exactly once how it ended: when it is settled, or else, neutrally, when it is
/// dropped.
///
/// Holds a lane, not the circuit: a reference that all threads count is a counter that all threads write. Two words,
/// since it is moved about at every call.
#[derive(Debug)]
pub(super) enum Permit {
    /// One of many, which need not say that it says nothing.
    Call { lane: Arc<CounterShard>, generation: u32 },
    /// One of a few, which must.
    Probe(Probe),
}

/// Gives back the place of a probe when it is dropped.
#[derive(Debug)]
pub(super) struct Probe(Arc<ProbeState>);

/// A probe, which also wakes its task: from then on it is the consumer who lets the probe wait.
#[derive(Debug)]
struct ProbeState {
    lane: Arc<CounterShard>,
    grant: Grant,
    task: Mutex<Option<Waker>>,
}

/// Says that the call is broken, unless it is forgotten: what ran under it has panicked.
pub(super) struct PanicGuard<'a>(&'a mut Option<Permit>);

// === impl Permit ===

impl Permit {
    pub(super) fn granted(lane: Arc<CounterShard>, grant: Grant) -> Self {
        if grant.is_call() {
            Self::Call { lane, generation: grant.generation }
        } else {
            Self::Probe(Probe(Arc::new(ProbeState { lane, grant, task: Mutex::new(None) })))
        }
    }

    #[inline]
    pub(super) fn lane(&self) -> &CounterShard {
        match self {
            Self::Call { lane, .. } => lane,
            Self::Probe(Probe(probing)) => &probing.lane,
        }
    }

    #[inline]
    pub(super) fn probe(&self) -> Option<&Probe> {
        match self {
            Self::Call { .. } => None,
            Self::Probe(probe) => Some(probe),
        }
    }

    /// The call is over: to be said once, and then dropped.
    #[inline]
    pub(super) fn settle(&self, ended: CallResult, now: Instant) {
        match self {
            Self::Call { lane, generation } => lane.settle(Grant::call(*generation), ended, now),
            Self::Probe(Probe(probing)) => probing.lane.settle(probing.grant, ended, now),
        }
    }

    /// Polls what the call waits for.
    #[inline]
    pub(super) fn poll<T>(
        permit: &mut Option<Self>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        // A probe waits from before it is polled: it may be woken before that is over.
        let waker = match &*permit {
            Some(Self::Probe(probe)) => Some(probe.waits(cx)),
            _ => None,
        };
        let unwinding = PanicGuard::of(permit);
        let polled = match &waker {
            None => poll(cx),
            Some(waker) => poll(&mut Context::from_waker(waker)),
        };
        unwinding.over();
        polled
    }
}

// === impl Probe ===

impl Probe {
    /// It waits for the upstream, which wakes its task through this.
    #[cold]
    fn waits(&self, cx: &Context<'_>) -> Waker {
        let Self(probing) = self;
        lock(&probing.task).get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        self.waits_from(clock::now());
        Waker::from(probing.clone())
    }

    #[cold]
    pub(super) fn waits_from(&self, now: Instant) {
        let Self(probing) = self;
        probing.lane.with(|machine| machine.probe_waits(probing.grant, now));
    }

    /// It waits for its consumer.
    #[cold]
    pub(super) fn rests(&self) {
        self.0.rests();
    }

    /// It has proved what it had to: leave to see how the rest of its body ends.
    #[cold]
    pub(super) fn exchange(&self, ended: CallResult, now: Instant) -> Option<Permit> {
        let Self(probing) = self;
        let rest = probing.lane.circuit()?.with(|machine| machine.exchange(probing.grant, ended, now))?;
        Some(Permit::granted(probing.lane.clone(), rest))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let Self(probing) = self;
        probing.lane.with(|machine| machine.give_back(probing.grant));
    }
}

// === impl ProbeState ===

impl ProbeState {
    fn rests(&self) {
        let now = clock::now();
        self.lane.with(|machine| machine.probe_rests(self.grant, now));
    }
}

impl Wake for ProbeState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rests();
        let task = lock(&self.task).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

// === impl PanicGuard ===

impl<'a> PanicGuard<'a> {
    /// That the inner service has no answer but a panic is a failure of its own.
    #[inline]
    pub(super) fn of(permit: &'a mut Option<Permit>) -> Self {
        Self(permit)
    }

    /// There was no panic.
    #[inline]
    pub(super) fn over(self) {
        mem::forget(self);
    }
}

impl Drop for PanicGuard<'_> {
    #[cold]
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            permit.settle(PANICKED, clock::now());
        }
    }
}
