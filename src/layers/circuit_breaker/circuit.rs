//! The state machine, shared by threads. [The module above](super) explains the design.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::counters::{Counters, NONE, Nanos};
use super::notify::StateNotifier;
use crate::policy::breaker::order::CircuitOrder;
use crate::policy::breaker::report::{CircuitChange, CircuitSnapshot};
use crate::policy::breaker::{
    Breaker, BreakerEvent, CallGrant, CallResult, CallRole, Caller, CircuitDecision, Counted, QUIET, Refuses,
};
use crate::policy::verdict::Health;
use crate::policy::window::CountedIn;
use crate::rt::clock;
use crate::rt::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, lock, thread_number};

#[derive(Debug)]
pub(super) struct Circuit {
    machine: Mutex<Breaker>,
    /// The generation under which calls pass, or [`NONE`].
    passing: AtomicU32,
    /// Until when every call is refused, in nanoseconds from `epoch`; zero if calls may pass.
    refusing: AtomicU64,
    epoch: Instant,
    shards: Box<[Arc<CounterShard>]>,
    this: Weak<Circuit>,
    pub(super) notifier: StateNotifier,
    listener: Option<Arc<dyn CircuitListener>>,
}

/// Called when a circuit changes its state, besides its observers and subscribers. Called outside every lock.
pub(super) trait CircuitListener: fmt::Debug + Send + Sync {
    fn on_change(&self, circuit: &Weak<Circuit>, change: &CircuitChange);

    /// An operator gave an order for every process.
    fn on_order(&self, circuit: &Weak<Circuit>, order: CircuitOrder);
}

/// Admits one call. Its holder, a `BreakerPermit`, reports exactly once how the call ended.
///
/// It holds a shard, not the circuit: a reference counted by all threads is a counter that all threads write.
#[derive(Debug)]
pub(super) struct CircuitPermit {
    pub(super) shard: Arc<CounterShard>,
    pub(super) grant: CallGrant,
}

/// A call that has succeeded or failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettledCall {
    pub(super) grant: CallGrant,
    pub(super) result: CallResult,
    pub(super) caller: Caller,
    /// How long it waited for its first data.
    pub(super) waited: Duration,
    pub(super) now: Instant,
}

/// Counters of a few threads, in two cache lines of their own: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct CounterShard {
    pub(super) counters: Counters,
    /// Once it is gone, results no longer matter.
    circuit: Weak<Circuit>,
}

/// Longer than any process lives.
const FOREVER: u64 = u64::MAX;
/// Further threads share shards: a failure has to read all of them.
const MAX_SHARDS: usize = 16;

// === impl Circuit ===

impl Circuit {
    pub(super) fn new(
        machine: Breaker,
        shards: usize,
        notifier: StateNotifier,
        listener: Option<Arc<dyn CircuitListener>>,
        epoch: Instant,
    ) -> Arc<Self> {
        Arc::new_cyclic(|circuit: &Weak<Self>| {
            let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
            let shard = || CounterShard { counters: Counters::new(epoch), circuit: circuit.clone() };
            let circuit = Self {
                machine: Mutex::new(machine),
                passing: AtomicU32::new(NONE),
                refusing: AtomicU64::new(0),
                epoch,
                shards: (0..shards).map(|_| Arc::new(shard())).collect(),
                this: circuit.clone(),
                notifier,
                listener,
            };
            circuit.publish(&lock(&circuit.machine));
            circuit
        })
    }

    /// Admits a call without asking the machine; `None` if it would be a probe, or refused.
    #[inline]
    pub(super) fn pass(&self) -> Option<CircuitPermit> {
        match self.passing.load(Ordering::Acquire) {
            NONE => None,
            generation => Some(CircuitPermit { shard: self.shard().clone(), grant: CallGrant::call(generation) }),
        }
    }

    /// Admits a call, or returns when to retry.
    #[inline]
    pub(super) fn admit(&self, now: impl FnOnce() -> Instant) -> Result<CircuitPermit, Option<Duration>> {
        self.pass().map_or_else(|| self.admit_slowly(now()), Ok)
    }

    /// Whether a call made now would pass without being a probe.
    #[inline]
    pub(super) fn passes(&self) -> bool {
        self.passing.load(Ordering::Acquire) != NONE
    }

    /// Counts a readiness error of the service.
    #[cold]
    pub(super) fn record_readiness_error(&self, result: impl FnOnce() -> CallResult) {
        if let Some(CircuitPermit { shard, grant }) = self.pass() {
            let (caller, waited, now) = (Caller::Anonymous, Duration::ZERO, clock::now());
            shard.settle(SettledCall { grant, result: result(), caller, waited, now });
        }
    }

    #[cold]
    fn admit_slowly(&self, now: Instant) -> Result<CircuitPermit, Option<Duration>> {
        let until = self.refusing.load(Ordering::Acquire);
        let left = until.saturating_sub(Nanos::since(self.epoch, now).0);
        let admission = match left {
            0 => self.with(|machine| machine.admit(now)),
            _ if until == FOREVER => CircuitDecision::Refused { retry_after: None },
            left => CircuitDecision::Refused { retry_after: Some(Duration::from_nanos(left)) },
        };
        match admission {
            CircuitDecision::Granted(grant) => Ok(CircuitPermit { shard: self.shard().clone(), grant }),
            CircuitDecision::Refused { retry_after } => {
                self.shard().counters.note_refusal();
                Err(retry_after)
            }
        }
    }

    /// Admits a health probe, while the circuit is open.
    pub(super) fn admit_health(&self, now: Instant) -> Option<CircuitPermit> {
        let grant = lock(&self.machine).admit_health(now)?;
        Some(CircuitPermit { shard: self.shard().clone(), grant })
    }

    /// Returns this thread's shard.
    #[inline]
    fn shard(&self) -> &Arc<CounterShard> {
        &self.shards[thread_number() & (self.shards.len() - 1)]
    }

    /// The counters of all threads.
    pub(super) fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.shards.iter().map(|shard| &shard.counters)
    }

    pub(super) fn snapshot(&self, now: Instant) -> CircuitSnapshot {
        let snapshot = self.with(|machine| (machine.snapshot(now), None));
        let refused = self.counters().map(Counters::refused);
        CircuitSnapshot { refused: refused.fold(0, u64::saturating_add), ..snapshot }
    }

    /// Whether evicting this circuit would lose more than its counters.
    pub(super) fn is_pinned(&self) -> bool {
        lock(&self.machine).is_pinned()
    }

    /// The number of recently begun calls that wait, if that matters for a failure after a wait of this length.
    pub(super) fn waiting(&self, waited: Duration, now: Instant) -> u64 {
        if waited >= QUIET {
            return 0;
        }
        let now = Nanos::since(self.epoch, now);
        self.counters().map(|counters| counters.waiting(now)).sum()
    }

    /// Counts a call of this shard that could not be counted there.
    pub(super) fn settle(&self, counters: &Counters, call: SettledCall) -> Counted {
        let SettledCall { grant, result, caller, waited, now } = call;
        let mut machine = lock(&self.machine);
        // The previous holder of the lock may have been the only reason to wait. Draining the shards again would send the
        // next thread here too, and so on.
        if result == CallResult::SUCCESS && grant.is_call() {
            if let Some(counted) = counters.count(grant.generation, caller, now) {
                return counted;
            }
        }
        let waiting = self.waiting(waited, now);
        let at = Nanos::since(self.epoch, now);
        let others_are_served = || self.counters().any(|counters| counters.has_served_other(caller, at));
        let result = machine.attribute(grant, result, caller, others_are_served, now);
        self.ask(machine, |machine| machine.settle(grant, result, waiting, now))
    }

    /// Asks the machine, after adding all earlier results.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&mut Breaker) -> (T, Option<BreakerEvent>)) -> T {
        let machine = lock(&self.machine);
        self.ask(machine, ask)
    }

    fn ask<T>(
        &self,
        mut machine: MutexGuard<'_, Breaker>,
        ask: impl FnOnce(&mut Breaker) -> (T, Option<BreakerEvent>),
    ) -> T {
        for counters in self.counters() {
            let (calls, last_sign) = counters.drain();
            machine.absorb(calls);
            if let Some(last_sign) = last_sign {
                machine.note_sign_of_life(last_sign);
            }
        }
        let (answer, event) = ask(&mut machine);
        self.publish(&machine);
        drop(machine);
        if let Some(event) = event {
            self.notifier.notify(&event);
            if let (BreakerEvent::Changed(change), Some(listener)) = (&event, &self.listener) {
                listener.on_change(&self.this, change);
            }
        }
        answer
    }

    pub(super) fn order_everywhere(&self, order: CircuitOrder) {
        if let Some(listener) = &self.listener {
            listener.on_order(&self.this, order);
        }
    }

    fn publish(&self, machine: &Breaker) {
        let passing = if machine.passes() { machine.generation() } else { NONE };
        let refusing = match machine.refuses() {
            Some(Refuses::Until(until)) => Nanos::since(self.epoch, until).0.min(FOREVER - 1),
            Some(Refuses::Always) => FOREVER,
            None => 0,
        };
        // Written only on a change: all threads read them.
        if self.passing.load(Ordering::Relaxed) != passing {
            self.passing.store(passing, Ordering::Release);
        }
        if self.refusing.load(Ordering::Relaxed) != refusing {
            self.refusing.store(refusing, Ordering::Release);
        }
        if let Some(fast) = machine.fast() {
            let until = fast.until.map_or(FOREVER, |until| Nanos::since(self.epoch, until).0);
            self.counters().for_each(|counters| counters.resume(fast.generation, until, fast.slot));
        }
    }
}

// === impl CounterShard ===

impl CounterShard {
    /// Counts a call. Returns where a success was counted.
    #[inline]
    pub(super) fn settle(&self, call: SettledCall) -> Counted {
        let counted = if call.result == CallResult::SUCCESS && call.grant.is_call() {
            self.counters.count(call.grant.generation, call.caller, call.now)
        } else {
            None
        };
        counted.unwrap_or_else(|| self.settle_slowly(call))
    }

    #[cold]
    fn settle_slowly(&self, call: SettledCall) -> Counted {
        if call.result.health == Health::Success && call.grant.role != CallRole::Health {
            self.counters.note_served(call.caller, self.counters.nanos(call.now));
        }
        match self.circuit.upgrade() {
            Some(circuit) => circuit.settle(&self.counters, call),
            None => Counted { generation: NONE, slot: CountedIn::NONE, slow: false },
        }
    }

    /// Handles the end of a call whose success was counted.
    #[cold]
    pub(super) fn finish(&self, counted: Counted, result: CallResult, now: Instant) {
        if let Some(circuit) = self.circuit.upgrade() {
            let waiting = circuit.waiting(Duration::ZERO, now);
            circuit.with(|machine| ((), machine.finish(counted, result, waiting, now)));
        }
    }

    /// Counts a call that was cancelled after it had waited too long.
    #[cold]
    pub(super) fn cancel(&self, grant: CallGrant, caller: Caller, slow: bool, waited: Duration, now: Instant) {
        if let Some(circuit) = self.circuit.upgrade() {
            let waiting = circuit.waiting(waited, now);
            circuit.with(|machine| ((), machine.cancel(grant, caller, slow, waiting, now)));
        }
    }

    /// Releases a probe without a result.
    #[cold]
    pub(super) fn give_back(&self, probe: CallGrant) {
        if let Some(circuit) = self.circuit.upgrade() {
            circuit.with(|machine| {
                machine.give_back(probe);
                ((), None)
            });
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
