//! The machine, shared by threads. What is in which place, and why, is told in [the module above](super).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::notify::StateNotifier;
use super::permit::Permit;
use super::shard::{CounterShard, NONE, Nanos};
use crate::policy::breaker::report::CircuitSnapshot;
use crate::policy::breaker::{Admission, Breaker, BreakerEvent, CallResult, Counted, Grant, QUIET, Refuses};
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
    shards: Box<[Arc<CounterShard>]>,
    this: Weak<Circuit>,
    pub(super) notifier: StateNotifier,
}

/// Longer than any process lives.
const FOREVER: u64 = u64::MAX;
/// Beyond this, threads share shards: a failure has to look into all of them.
const MAX_SHARDS: usize = 16;

// === impl Circuit ===

impl Circuit {
    pub(super) fn new(machine: Breaker, shards: usize, notifier: StateNotifier, epoch: Instant) -> Arc<Self> {
        Arc::new_cyclic(|circuit: &Weak<Self>| {
            let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
            let circuit = Self {
                machine: Mutex::new(machine),
                passing: AtomicU32::new(NONE),
                refusing: AtomicU64::new(0),
                epoch,
                shards: (0..shards).map(|_| Arc::new(CounterShard::new(circuit.clone(), epoch))).collect(),
                this: circuit.clone(),
                notifier,
            };
            circuit.publish(&lock(&circuit.machine));
            circuit
        })
    }

    /// A call that passes, without asking the machine; `None` if it would be a probe, or refused.
    #[inline]
    pub(super) fn pass(&self) -> Option<Permit> {
        match self.passing.load(Ordering::Acquire) {
            NONE => None,
            generation => Some(Permit { shard: self.shard().clone(), grant: Grant::call(generation) }),
        }
    }

    /// Lets a call pass, or says when to come back.
    #[inline]
    pub(super) fn admit(&self, now: impl FnOnce() -> Instant) -> Result<Permit, Option<Duration>> {
        self.pass().map_or_else(|| self.admit_slowly(now()), Ok)
    }

    /// Whether a call made now would pass without being a probe.
    #[inline]
    pub(super) fn passes(&self) -> bool {
        self.passing.load(Ordering::Acquire) != NONE
    }

    /// The service could not even be made ready.
    #[cold]
    pub(super) fn record_readiness_error(&self, result: impl FnOnce() -> CallResult) {
        if let Some(Permit { shard, grant }) = self.pass() {
            shard.settle(grant, result(), Duration::ZERO, clock::now());
        }
    }

    #[cold]
    fn admit_slowly(&self, now: Instant) -> Result<Permit, Option<Duration>> {
        let until = self.refusing.load(Ordering::Acquire);
        let left = until.saturating_sub(Nanos::since(self.epoch, now).0);
        let admission = match left {
            0 => self.with(|machine| machine.admit(now)),
            _ if until == FOREVER => Admission::Refused { retry_after: None },
            left => Admission::Refused { retry_after: Some(Duration::from_nanos(left)) },
        };
        match admission {
            Admission::Granted(grant) => Ok(Permit { shard: self.shard().clone(), grant }),
            Admission::Refused { retry_after } => {
                self.shard().note_refusal();
                Err(retry_after)
            }
        }
    }

    /// Leave to send a health probe, while the circuit is open.
    pub(super) fn admit_health(&self, now: Instant) -> Option<Permit> {
        let grant = lock(&self.machine).admit_health(now)?;
        Some(Permit { shard: self.shard().clone(), grant })
    }

    /// Where this thread counts.
    #[inline]
    fn shard(&self) -> &Arc<CounterShard> {
        &self.shards[thread_number() & (self.shards.len() - 1)]
    }

    pub(super) fn shards(&self) -> &[Arc<CounterShard>] {
        &self.shards
    }

    pub(super) fn snapshot(&self, now: Instant) -> CircuitSnapshot {
        let snapshot = self.with(|machine| (machine.snapshot(now), None));
        let refused = self.shards.iter().map(|shard| shard.refused());
        CircuitSnapshot { refused: refused.fold(0, u64::saturating_add), ..snapshot }
    }

    /// Whether evicting this circuit would lose more than its counters.
    pub(super) fn is_pinned(&self) -> bool {
        lock(&self.machine).is_pinned()
    }

    /// How many calls wait that began lately, if that matters for one that fails after having waited for so long.
    pub(super) fn waiting(&self, waited: Duration, now: Instant) -> u64 {
        if waited >= QUIET {
            return 0;
        }
        let now = Nanos::since(self.epoch, now);
        self.shards.iter().map(|shard| shard.waiting(now)).sum()
    }

    /// A call of this shard has succeeded or failed, and could not be counted there.
    pub(super) fn settle(
        &self,
        shard: &CounterShard,
        grant: Grant,
        result: CallResult,
        waited: Duration,
        now: Instant,
    ) -> Counted {
        let machine = lock(&self.machine);
        // The one that had the lock before may have been all there was to wait for. To drain the shards again would send
        // the next one here too, and so on for ever.
        if result == CallResult::SUCCESS && grant.is_call() {
            if let Some(counted) = shard.count(grant.generation, now) {
                return counted;
            }
        }
        let waiting = self.waiting(waited, now);
        self.ask(machine, |machine| machine.settle(grant, result, waiting, now))
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
        for shard in &self.shards {
            let (calls, heard) = shard.drain();
            machine.absorb(calls);
            if let Some(heard) = heard {
                machine.hear(heard);
            }
        }
        let (answer, event) = ask(&mut machine);
        self.publish(&machine);
        drop(machine);
        if let Some(event) = event {
            self.notifier.notify(&event, &self.this);
        }
        answer
    }

    fn publish(&self, machine: &Breaker) {
        let passing = if machine.passes() { machine.generation() } else { NONE };
        let refusing = match machine.refuses() {
            Some(Refuses::Until(until)) => Nanos::since(self.epoch, until).0.min(FOREVER - 1),
            Some(Refuses::Always) => FOREVER,
            None => 0,
        };
        // Written only when they change: all threads read them.
        if self.passing.load(Ordering::Relaxed) != passing {
            self.passing.store(passing, Ordering::Release);
        }
        if self.refusing.load(Ordering::Relaxed) != refusing {
            self.refusing.store(refusing, Ordering::Release);
        }
        if let Some(fast) = machine.fast() {
            let until = fast.until.map_or(FOREVER, |until| Nanos::since(self.epoch, until).0);
            self.shards.iter().for_each(|shard| shard.resume(fast.generation, until, fast.slot));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
