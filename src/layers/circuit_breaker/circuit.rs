//! The machine, shared by threads.
//!
//! # Why not one lock, or one counter?
//!
//! Either is a cache line that every thread writes at every call: two threads are then slower than one. Nearly all
//! calls succeed in a closed circuit, and there the machine itself says ([`Breaker::fast`]) that successes may be counted
//! elsewhere: they cannot open the circuit, only what comes after them can. So each thread counts them in a [`CounterShard`] of
//! its own, with the generation and the count in one word, and whoever has something else to say (a failure, the next
//! bucket of the window, a hand on the lever) takes the lock, and *freezes* the lanes: takes their words away, brings
//! what they held into the machine, asks it, and puts new words in their place. While the lanes are frozen nobody can
//! count there, and waits for the lock instead. So the machine sees every outcome, in an order that did happen, before
//! it decides anything: it remains the only place where anything is decided.
//!
//! Besides, two facts are put where everybody can read them: the generation under which calls pass, and until when all
//! of them are refused. Neither needs the lock, and neither is written except by a change of state.

use std::error::Error;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::classification::Classification;
use super::notify::StateNotifier;
use super::permit::Permit;
use crate::policy::breaker::report::CircuitSnapshot;
use crate::policy::breaker::{Admission, Breaker, BreakerEvent, CallResult, Grant, Refuses};
use crate::policy::verdict::Health;
use crate::rt::clock;
use crate::rt::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, lock, thread_number};

#[derive(Debug)]
pub(super) struct Circuit {
    machine: Mutex<Breaker>,
    /// The generation under which calls pass, or [`NONE`].
    passing: AtomicU32,
    /// Until when everything is refused, in nanoseconds from `epoch`; zero where something may pass.
    refusing: AtomicU64,
    epoch: Instant,
    lanes: Box<[Arc<CounterShard>]>,
    this: Weak<Circuit>,
    pub(super) teller: StateNotifier,
}

/// Where some of the threads count. Two cache lines: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct CounterShard {
    /// The generation for which successes are counted here, or [`NONE`], above; how many there were, below.
    word: AtomicU64,
    /// Until when that is so, and when the last one came; in nanoseconds from the epoch.
    until: AtomicU64,
    last: AtomicU64,
    refused: AtomicU64,
    epoch: Instant,
    pub(super) judge: Classification,
    circuit: Weak<Circuit>,
}

/// When a call began, in nanoseconds from the epoch; zero where nobody asks how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Started(u64);

/// No generation at all: the machine counts from one.
const NONE: u32 = 0;
/// Longer than any process lives.
const FOREVER: u64 = u64::MAX;
/// Beyond this, threads share lanes: a failure has to look into all of them.
const MAX_LANES: usize = 16;

// === impl Circuit ===

impl Circuit {
    pub(super) fn new(
        machine: Breaker,
        lanes: usize,
        judge: &Classification,
        teller: StateNotifier,
        epoch: Instant,
    ) -> Arc<Self> {
        Arc::new_cyclic(|circuit: &Weak<Self>| {
            let lanes = lanes.clamp(1, MAX_LANES).next_power_of_two();
            let lanes =
                (0..lanes).map(|_| Arc::new(CounterShard::new(circuit.clone(), judge.clone(), epoch))).collect();
            let circuit = Self {
                machine: Mutex::new(machine),
                passing: AtomicU32::new(NONE),
                refusing: AtomicU64::new(0),
                epoch,
                lanes,
                this: circuit.clone(),
                teller,
            };
            circuit.publish(&lock(&circuit.machine));
            circuit
        })
    }

    /// Where to count a call that passes, and under which generation; `None` if it would be a probe, or refused.
    #[inline]
    pub(super) fn pass(&self) -> Option<(Arc<CounterShard>, u32)> {
        match self.passing.load(Ordering::Acquire) {
            NONE => None,
            generation => Some((self.lane().clone(), generation)),
        }
    }

    /// Lets a call pass, or says when to come back.
    #[inline]
    pub(super) fn admit(&self, now: impl FnOnce() -> Instant) -> Result<Permit, Option<Duration>> {
        match self.pass() {
            Some((lane, generation)) => Ok(Permit::Call { lane, generation }),
            None => self.admit_slowly(now()),
        }
    }

    /// Whether a call made now would pass without being a probe.
    #[inline]
    pub(super) fn passes(&self) -> bool {
        self.passing.load(Ordering::Acquire) != NONE
    }

    /// The service could not even be made ready.
    #[cold]
    pub(super) fn blame(&self, err: &(dyn Error + 'static)) {
        if let Some((lane, generation)) = self.pass() {
            lane.settle(Grant::call(generation), lane.judge.error(err), clock::now());
        }
    }

    #[cold]
    fn admit_slowly(&self, now: Instant) -> Result<Permit, Option<Duration>> {
        let until = self.refusing.load(Ordering::Acquire);
        let left = until.saturating_sub(nanos(self.epoch, now));
        let admission = match left {
            0 => self.with(|machine| machine.admit(now)),
            _ if until == FOREVER => Admission::Refused { retry_after: None },
            left => Admission::Refused { retry_after: Some(Duration::from_nanos(left)) },
        };
        match admission {
            Admission::Granted(grant) => Ok(Permit::granted(self.lane().clone(), grant)),
            Admission::Refused { retry_after } => {
                self.lane().refused.fetch_add(1, Ordering::Relaxed);
                Err(retry_after)
            }
        }
    }

    /// Leave to send a health probe, while the circuit is open.
    pub(super) fn admit_health(&self, now: Instant) -> Option<Permit> {
        let grant = lock(&self.machine).admit_health(now)?;
        Some(Permit::granted(self.lane().clone(), grant))
    }

    /// Where this thread counts.
    #[inline]
    fn lane(&self) -> &Arc<CounterShard> {
        &self.lanes[thread_number() & (self.lanes.len() - 1)]
    }

    pub(super) fn snapshot(&self, now: Instant) -> CircuitSnapshot {
        let snapshot = self.with(|machine| (machine.snapshot(now), None));
        let refused = self.lanes.iter().map(|lane| lane.refused.load(Ordering::Relaxed));
        CircuitSnapshot { refused: refused.fold(0, u64::saturating_add), ..snapshot }
    }

    /// Whether more would be lost with it than what it has counted.
    pub(super) fn is_pinned(&self) -> bool {
        lock(&self.machine).is_pinned()
    }

    /// Asks the machine, which has seen everything that happened before.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&mut Breaker) -> (T, Option<BreakerEvent>)) -> T {
        let machine = lock(&self.machine);
        self.ask(machine, ask)
    }

    fn ask<T>(
        &self,
        mut machine: MutexGuard<'_, Breaker>,
        ask: impl FnOnce(&mut Breaker) -> (T, Option<BreakerEvent>),
    ) -> T {
        for lane in &self.lanes {
            let (calls, last) = lane.freeze();
            machine.absorb(calls, last);
        }
        let (answer, notice) = ask(&mut machine);
        self.publish(&machine);
        drop(machine);
        if let Some(notice) = notice {
            self.teller.tell(&notice, &self.this);
        }
        answer
    }

    fn publish(&self, machine: &Breaker) {
        let passing = if machine.passes() { machine.generation() } else { NONE };
        let refusing = match machine.refuses() {
            Some(Refuses::Until(until)) => nanos(self.epoch, until).min(FOREVER - 1),
            Some(Refuses::Always) => FOREVER,
            None => 0,
        };
        // PropagatedHeaders only when they change: everybody reads them.
        if self.passing.load(Ordering::Relaxed) != passing {
            self.passing.store(passing, Ordering::Release);
        }
        if self.refusing.load(Ordering::Relaxed) != refusing {
            self.refusing.store(refusing, Ordering::Release);
        }
        if let Some(fast) = machine.fast() {
            let until = fast.until.map_or(FOREVER, |until| nanos(self.epoch, until));
            self.lanes.iter().for_each(|lane| lane.thaw(fast.generation, until));
        }
    }
}

// === impl Started ===

impl Started {
    #[inline]
    pub(super) fn is_asked(self) -> bool {
        self.0 != 0
    }
}

// === impl CounterShard ===

impl CounterShard {
    fn new(circuit: Weak<Circuit>, judge: Classification, epoch: Instant) -> Self {
        Self {
            word: AtomicU64::new(word(NONE, 0)),
            until: AtomicU64::new(0),
            last: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            epoch,
            judge,
            circuit,
        }
    }

    /// The circuit, unless it is gone: then nothing that anybody says of it matters any more.
    pub(super) fn circuit(&self) -> Option<Arc<Circuit>> {
        self.circuit.upgrade()
    }

    /// When a call begins, where anybody asks how long it took.
    #[inline]
    pub(super) fn start(&self) -> Started {
        match self.judge.slow_after {
            Some(_) => Started(nanos(self.epoch, clock::now()).max(1)),
            None => Started::default(),
        }
    }

    /// Whether a call has taken longer than allowed; as long is not longer. No clock is read where nobody asks.
    #[inline]
    pub(super) fn is_slow(&self, started: Started) -> bool {
        match (self.judge.slow_after, started.is_asked()) {
            (Some(limit), true) => {
                let took = nanos(self.epoch, clock::now()).saturating_sub(started.0);
                Duration::from_nanos(took) > limit
            }
            _ => false,
        }
    }

    /// A call is over.
    #[inline]
    pub(super) fn settle(&self, grant: Grant, ended: CallResult, now: Instant) {
        let counts = ended.health == Health::Success && !ended.slow && grant.is_call();
        if !(counts && self.count(grant.generation, now)) {
            self.settle_slowly(grant, ended, now, counts);
        }
    }

    /// Counts a success here, if that is allowed.
    #[inline]
    fn count(&self, generation: u32, now: Instant) -> bool {
        let now = nanos(self.epoch, now);
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let (of, calls) = parts(seen);
            if of != generation || calls == u32::MAX || now >= self.until.load(Ordering::Relaxed) {
                return false;
            }
            self.last.store(now, Ordering::Relaxed);
            // The generation is part of what is compared: what is counted is counted for this one.
            match self.word.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Tells the machine something that changes no state.
    #[cold]
    pub(super) fn with(&self, tell: impl FnOnce(&mut Breaker)) {
        if let Some(circuit) = self.circuit() {
            tell(&mut lock(&circuit.machine));
        }
    }

    #[cold]
    fn settle_slowly(&self, grant: Grant, ended: CallResult, now: Instant, counts: bool) {
        let Some(circuit) = self.circuit() else { return };
        let machine = lock(&circuit.machine);
        // Whoever had the lock before us may have been all there was to wait for. To freeze the lanes again would send
        // the next one here too, and so on for ever.
        if !(counts && self.count(grant.generation, now)) {
            circuit.ask(machine, |machine| ((), machine.settle(grant, ended, now)));
        }
    }

    /// Takes away what was counted, and the leave to count.
    fn freeze(&self) -> (u64, Instant) {
        if self.word.load(Ordering::Relaxed) == word(NONE, 0) {
            return (0, self.epoch);
        }
        let (_, calls) = parts(self.word.swap(word(NONE, 0), Ordering::AcqRel));
        let last = Duration::from_nanos(self.last.load(Ordering::Relaxed));
        (calls.into(), self.epoch.checked_add(last).unwrap_or(self.epoch))
    }

    fn thaw(&self, generation: u32, until: u64) {
        self.until.store(until, Ordering::Relaxed);
        self.word.store(word(generation, 0), Ordering::Release);
    }
}

const fn word(generation: u32, calls: u32) -> u64 {
    (generation as u64) << 32 | calls as u64
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Before the epoch is at the epoch; five hundred years from it is the end of time.
#[inline]
fn nanos(epoch: Instant, at: Instant) -> u64 {
    let since = at.saturating_duration_since(epoch);
    since.as_secs().saturating_mul(1_000_000_000).saturating_add(since.subsec_nanos().into())
}

#[cfg(test)]
mod tests;
