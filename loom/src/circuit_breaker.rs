//! One circuit, two or three threads.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loom::thread;

use super::circuit::{Circuit, CircuitPermit, SettledCall};
use super::notify::StateNotifier;
use crate::Checks;
use crate::policy::breaker::report::{CircuitChange, CircuitState};
use crate::policy::breaker::settings::BreakerSettings;
use crate::policy::breaker::{Breaker, CallResult, Caller};
use crate::policy::verdict::Health;
use crate::policy::window::CircuitWindow;
use crate::rt::sync::set_thread_number;

pub(crate) const ALL: Checks = &[
    ("no_more_probes_than_allowed", no_more_probes_than_allowed),
    ("one_probe_closes_once_and_the_other_changes_nothing", one_probe_closes_once_and_the_other_changes_nothing),
    ("a_probe_that_is_overtaken_closes_once", a_probe_that_is_overtaken_closes_once),
    ("a_threshold_that_two_threads_reach_opens_once", a_threshold_that_two_threads_reach_opens_once),
    ("no_success_is_lost_while_a_failure_gathers_them", no_success_is_lost_while_a_failure_gathers_them),
    ("no_success_is_lost_when_a_bucket_ends", no_success_is_lost_when_a_bucket_ends),
    ("a_success_of_an_older_generation_is_never_counted", a_success_of_an_older_generation_is_never_counted),
    ("what_opens_a_circuit_is_what_was_counted", what_opens_a_circuit_is_what_was_counted),
    ("a_subscriber_sees_a_closed_circuit_let_calls_pass", a_subscriber_sees_a_closed_circuit_let_calls_pass),
];

const S: Duration = Duration::from_secs(1);
const GOOD: CallResult = CallResult::SUCCESS;
const BAD: CallResult = CallResult { health: Health::Failure, ..GOOD };

/// A circuit with two shards, its start, and its changes of state.
#[derive(Clone)]
struct Subject {
    circuit: Arc<Circuit>,
    start: Instant,
    told: Arc<Mutex<Vec<CircuitChange>>>,
}

impl Subject {
    fn new(change: impl FnOnce(&mut BreakerSettings)) -> Self {
        let mut settings = BreakerSettings { jitter: 0.0, ..BreakerSettings::default() };
        change(&mut settings);
        let start = Instant::now();
        let told = Arc::default();
        let machine = Breaker::new(settings, 0, start);
        Self { circuit: Circuit::new(machine, 2, StateNotifier(Arc::clone(&told)), None, start), start, told }
    }

    /// Open, with its open time over, and without a call yet.
    fn due(probes: u32) -> Self {
        let subject = Self::new(|s| s.probes = NonZeroU32::new(probes).unwrap());
        let start = subject.start;
        subject.circuit.with(|machine| ((), machine.open_by_hand(Duration::ZERO, start)));
        subject
    }

    fn admit(&self, after: Duration) -> Option<CircuitPermit> {
        self.circuit.admit(|| self.start + after).ok()
    }

    fn call(&self, ended: CallResult, after: Duration) {
        if let Some(permit) = self.admit(after) {
            settle(&permit, ended, self.start + after);
        }
    }

    /// Runs this on its own thread.
    fn on(&self, thread: usize, run: impl FnOnce(&Self) + 'static) -> thread::JoinHandle<()> {
        let subject = self.clone();
        thread::spawn(move || {
            set_thread_number(thread);
            run(&subject);
        })
    }

    fn state(&self) -> CircuitState {
        self.circuit.snapshot(self.start).state
    }

    fn changes(&self) -> Vec<(CircuitState, CircuitState)> {
        self.told.lock().unwrap().iter().map(|change| (change.from, change.to)).collect()
    }
}

fn settle(permit: &CircuitPermit, result: CallResult, now: Instant) {
    let (grant, caller, waited) = (permit.grant, Caller::Anonymous, Duration::ZERO);
    permit.shard.settle(SettledCall { grant, result, caller, waited, now });
}

fn no_more_probes_than_allowed() {
    loom::model(|| {
        let subject = Subject::due(1);
        let flying = Arc::new(AtomicUsize::new(0));
        let probing = |thread| {
            let flying = Arc::clone(&flying);
            subject.on(thread, move |subject| {
                if let Some(permit) = subject.admit(S) {
                    assert_eq!(flying.fetch_add(1, SeqCst), 0, "two probes in flight");
                    thread::yield_now();
                    flying.fetch_sub(1, SeqCst);
                    // No assertion: the other thread may still act.
                    permit.shard.give_back(permit.grant);
                }
            })
        };
        let threads = [probing(0), probing(1), probing(1)];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // No permit is lost, in any order of drops.
        assert!(subject.admit(S).is_some_and(|permit| !permit.grant.is_call()));
        assert_eq!(
            subject.changes(),
            [(CircuitState::Closed, CircuitState::Open), (CircuitState::Open, CircuitState::HalfOpen)]
        );
    });
}

fn one_probe_closes_once_and_the_other_changes_nothing() {
    loom::model(|| {
        let subject = Subject::due(2);
        let threads = [subject.on(0, |subject| subject.call(GOOD, S)), subject.on(1, |subject| subject.call(GOOD, S))];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(subject.state(), CircuitState::Closed);
        assert_eq!(subject.changes().len(), 3, "{:?}", subject.changes());
    });
}

fn a_probe_that_is_overtaken_closes_once() {
    loom::model(|| {
        let subject = Subject::due(1);
        let probe = subject.admit(S).unwrap();
        // The open time is over again: the next call probes too.
        let late = 10 * S;
        let ends = subject.on(0, move |subject| settle(&probe, GOOD, subject.start + late));
        let asks = subject.on(1, move |subject| assert!(subject.admit(late).is_some()));
        ends.join().unwrap();
        asks.join().unwrap();
        assert_eq!(subject.state(), CircuitState::Closed);
        assert_eq!(subject.changes().len(), 3, "{:?}", subject.changes());
    });
}

fn a_threshold_that_two_threads_reach_opens_once() {
    loom::model(|| {
        let subject = Subject::new(|s| s.consecutive = NonZeroU32::new(2));
        subject.call(BAD, S);
        let threads = [subject.on(0, |subject| subject.call(BAD, S)), subject.on(1, |subject| subject.call(BAD, S))];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(subject.state(), CircuitState::Open);
        assert_eq!(subject.changes(), [(CircuitState::Closed, CircuitState::Open)]);
    });
}

fn no_success_is_lost_while_a_failure_gathers_them() {
    loom::model(|| {
        let subject = Subject::new(|_| {});
        let threads = [
            subject.on(0, |subject| {
                subject.call(GOOD, S);
                subject.call(GOOD, S);
            }),
            subject.on(1, |subject| {
                subject.call(GOOD, S);
                subject.call(BAD, S);
            }),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let stats = subject.circuit.snapshot(subject.start + S).stats;
        assert_eq!((stats.calls, stats.failures), (4, 1));
    });
}

fn no_success_is_lost_when_a_bucket_ends() {
    loom::model(|| {
        let subject = Subject::new(|s| s.window = CircuitWindow::Time(10 * S));
        let threads = [
            subject.on(0, |subject| {
                subject.call(GOOD, S / 2);
                subject.call(GOOD, S + S / 2);
            }),
            subject.on(1, |subject| subject.call(GOOD, S + S / 2)),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(subject.circuit.snapshot(subject.start + 2 * S).stats.calls, 3);
    });
}

fn a_success_of_an_older_generation_is_never_counted() {
    loom::model(|| {
        let subject = Subject::new(|_| {});
        let old = subject.admit(S).unwrap();
        let settles = subject.on(0, move |subject| settle(&old, GOOD, subject.start + S));
        let turns = subject.on(1, |subject| {
            let now = subject.start + S;
            subject.circuit.with(|machine| ((), machine.isolate(now)));
            subject.circuit.with(|machine| ((), machine.close_by_hand(now)));
        });
        settles.join().unwrap();
        turns.join().unwrap();
        assert_eq!(subject.circuit.snapshot(subject.start + S).stats.calls, 0);
        assert!(subject.circuit.passes());
    });
}

fn what_opens_a_circuit_is_what_was_counted() {
    loom::model(|| {
        let subject = Subject::new(|s| {
            s.min_calls = NonZeroU32::MIN;
            s.failure_ratio = 0.3;
        });
        let threads = [
            subject.on(0, |subject| {
                subject.call(GOOD, S);
                subject.call(GOOD, S);
            }),
            subject.on(1, |subject| subject.call(BAD, S)),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let [change] = subject.told.lock().unwrap()[..] else { unreachable!("it opened once") };
        // Permits from before it opened are of an older generation, and do not count.
        assert!((1..=3).contains(&change.stats.calls) && change.stats.consecutive == 1);
        assert_eq!(subject.circuit.snapshot(subject.start + S).stats, change.stats);
        assert!(!subject.circuit.passes());
    });
}

fn a_subscriber_sees_a_closed_circuit_let_calls_pass() {
    loom::model(|| {
        let subject = Subject::due(1);
        let closes = subject.on(0, |subject| subject.call(GOOD, S));
        let looks = subject.on(1, |subject| {
            let closed = subject.changes().iter().any(|change| change.1 == CircuitState::Closed);
            let permit = subject.admit(S);
            assert!(!closed || permit.is_some_and(|permit| permit.grant.is_call()));
        });
        closes.join().unwrap();
        looks.join().unwrap();
    });
}
