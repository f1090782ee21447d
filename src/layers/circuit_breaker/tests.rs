//! The shared machine does what the machine does.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::policy::breaker::Caller;
use crate::policy::breaker::report::CircuitState;
use crate::policy::breaker::settings::BreakerSettings;
use crate::policy::verdict::Health;
use crate::policy::window::CircuitWindow;

const S: Duration = Duration::from_secs(1);
const SHARDS: usize = 4;
const FAILED: CallResult = CallResult { health: Health::Failure, ..CallResult::SUCCESS };

fn circuit(settings: BreakerSettings, start: Instant) -> Arc<Circuit> {
    let notifier = StateNotifier::new(None, Arc::default(), CircuitState::Closed);
    Circuit::new(Breaker::new(settings, 0, start), SHARDS, notifier, None, start)
}

fn settled(grant: CallGrant, result: CallResult, caller: Caller, now: Instant) -> SettledCall {
    SettledCall { grant, result, caller, waited: Duration::ZERO, now }
}

impl Circuit {
    fn call(&self, result: CallResult, now: Instant) {
        let CircuitPermit { shard, grant } = self.admit(|| now).unwrap();
        shard.settle(settled(grant, result, Caller::Anonymous, now));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(Duration),
    Admit,
    /// The call by its place among those that are out, and the shard of the thread that ends it.
    Settle(usize, usize, CallResult),
    /// The stream by its place among those that are out, and what its body comes to.
    Finish(usize, usize, CallResult),
    GiveUp(usize),
    SignOfLife(usize),
    Isolate,
    Close,
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let health = prop_oneof![
        8 => Just(Health::Success),
        3 => Just(Health::Failure),
        1 => Just(Health::Throttled),
        1 => Just(Health::Ignored)
    ];
    let result = || {
        (health.clone(), prop::bool::weighted(0.1)).prop_map(|(health, slow)| CallResult {
            health,
            slow,
            ..CallResult::SUCCESS
        })
    };
    prop_oneof![
        4 => (0_u32..8).prop_map(|n| Step::Pass(n * S / 4)),
        1 => (0_u32..60).prop_map(|n| Step::Pass(n * S)),
        16 => Just(Step::Admit),
        16 => (0_usize..6, 0..SHARDS, result()).prop_map(|(which, shard, result)| Step::Settle(which, shard, result)),
        4 => (0_usize..6, 0..SHARDS, result()).prop_map(|(which, shard, result)| Step::Finish(which, shard, result)),
        1 => (0_usize..6).prop_map(Step::GiveUp),
        2 => (0..SHARDS).prop_map(Step::SignOfLife),
        1 => Just(Step::Isolate),
        1 => Just(Step::Close),
        1 => Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn counting_in_shards_changes_nothing(
        min_calls in 1_u32..12,
        ratio in 1_u32..=10,
        slow: bool,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let start = Instant::now();
        let mut now = start;
        let settings = BreakerSettings {
            window: CircuitWindow::Time(10 * S),
            min_calls: NonZeroU32::new(min_calls).unwrap(),
            failure_ratio: f64::from(ratio) / 10.0,
            slow_ratio: slow.then_some(0.3),
            jitter: 0.0,
            ..BreakerSettings::default()
        };
        let mut machine = Breaker::new(settings.clone(), 0, now);
        let circuit = circuit(settings, now);
        let mut out = vec![];
        let mut streams = vec![];
        for step in steps {
            match step {
                Step::Pass(time) => now += time,
                Step::Admit => {
                    let (admission, _) = machine.admit(now);
                    match (circuit.admit(|| now), admission) {
                        (Ok(permit), CircuitDecision::Granted(grant)) => {
                            prop_assert_eq!(permit.grant, grant);
                            out.push(grant);
                        }
                        (Err(found), CircuitDecision::Refused { retry_after }) => prop_assert_eq!(found, retry_after),
                        different => prop_assert!(false, "{different:?}"),
                    }
                }
                Step::Settle(which, shard, result) if which < out.len() => {
                    let grant = out.remove(which);
                    let expected = machine.settle(grant, result, 0, now).0;
                    let counted = circuit.shards[shard].settle(settled(grant, result, Caller::Anonymous, now));
                    if result.health == Health::Success {
                        streams.push((counted, expected));
                    }
                }
                Step::Finish(which, shard, result) if which < streams.len() => {
                    let (counted, expected) = streams.remove(which);
                    machine.finish(expected, result, 0, now);
                    circuit.shards[shard].finish(counted, result, now);
                }
                Step::GiveUp(which) if which < out.len() => {
                    let grant = out.remove(which);
                    machine.cancel(grant, Caller::Anonymous, false, 0, now);
                    circuit.shards[0].cancel(grant, Caller::Anonymous, false, S, now);
                }
                Step::Settle(..) | Step::Finish(..) | Step::GiveUp(_) => {}
                Step::SignOfLife(shard) => {
                    machine.note_sign_of_life(now);
                    circuit.shards[shard].counters.note_sign_of_life(Nanos::since(start, now));
                }
                Step::Isolate => {
                    machine.isolate(now);
                    circuit.with(|machine| ((), machine.isolate(now)));
                }
                Step::Close => {
                    // Closed again by hand, all is forgotten, in the same generation.
                    streams.retain(|(counted, _)| counted.generation != machine.generation());
                    machine.close_by_hand(now);
                    circuit.with(|machine| ((), machine.close_by_hand(now)));
                }
                Step::Look => {
                    let refused = circuit.snapshot(now).refused;
                    prop_assert_eq!(circuit.snapshot(now), CircuitSnapshot { refused, ..machine.snapshot(now) });
                }
            }
            prop_assert_eq!(circuit.passes(), machine.passes());
        }
        let refused = circuit.snapshot(now).refused;
        prop_assert_eq!(circuit.snapshot(now), CircuitSnapshot { refused, ..machine.snapshot(now) });
    }
}

#[test]
fn while_closed_a_call_that_succeeds_takes_no_lock() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    let held = lock(&circuit.machine);
    for _ in 0..100 {
        circuit.call(CallResult::SUCCESS, start);
        circuit.shards[0].counters.note_sign_of_life(Nanos::since(start, start));
    }
    drop(held);
    assert_eq!(circuit.snapshot(start).stats.calls, 100);
}

#[test]
fn while_open_a_refusal_takes_no_lock() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    circuit.with(|machine| ((), machine.open_by_hand(S, start)));
    let held = lock(&circuit.machine);
    assert_eq!(circuit.admit(|| start).unwrap_err(), Some(S));
    drop(held);
    circuit.with(|machine| ((), machine.isolate(start)));
    let held = lock(&circuit.machine);
    assert_eq!(circuit.admit(|| start).unwrap_err(), None);
    drop(held);
    assert_eq!(circuit.snapshot(start).refused, 2);
}

#[test]
fn a_permit_that_outlives_its_circuit_is_harmless() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    let call = circuit.admit(|| start).unwrap();
    circuit.with(|machine| ((), machine.open_by_hand(Duration::ZERO, start)));
    let probe = circuit.admit(|| start).unwrap();
    drop(circuit);
    for CircuitPermit { shard, grant } in [call, probe] {
        let counted = shard.settle(settled(grant, FAILED, Caller::Anonymous, start));
        shard.finish(counted, FAILED, start);
        shard.cancel(grant, Caller::Anonymous, false, S, start);
        shard.give_back(grant);
    }
}

#[test]
fn a_shard_that_has_counted_all_it_can_starts_again() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    let CircuitPermit { shard, grant } = circuit.admit(|| start).unwrap();
    shard.counters.fill(grant.generation);
    shard.settle(settled(grant, CallResult::SUCCESS, Caller::Anonymous, start));
    assert_eq!(circuit.snapshot(start).stats.calls, u64::from(u32::MAX) + 1);
}

#[test]
fn what_was_heard_before_the_circuit_was_closed_by_hand_is_forgotten_with_the_rest() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    circuit.shards[0].counters.note_sign_of_life(Nanos::since(start, start));
    circuit.with(|machine| ((), machine.close_by_hand(start)));
    for _ in 0..5 {
        circuit.call(FAILED, start);
    }
    assert!(!circuit.passes(), "five failures in a row, and no sign of life since");
}

#[test]
fn calls_that_began_to_wait_in_the_last_seconds_are_counted_while_they_wait() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    let at = |millis: u64| start + Duration::from_millis(millis);
    let begin = |millis| {
        let since = Nanos::since(start, at(millis));
        circuit.shards[usize::try_from(millis).unwrap() % SHARDS].counters.begin_wait(since);
        since
    };
    let waiting = |millis| circuit.waiting(Duration::ZERO, at(millis));
    let (first, second) = (begin(0), begin(900));
    begin(2_500);
    assert_eq!(waiting(2_500), 3);
    circuit.shards[0].counters.end_wait(first);
    assert_eq!(waiting(5_900), 2);
    assert_eq!(waiting(6_000), 1, "the second one is old");
    assert_eq!(circuit.waiting(QUIET, at(2_500)), 0, "a call that failed late has seen enough");
    // Eight seconds later its place is another's.
    begin(8_500);
    circuit.shards[0].counters.end_wait(second);
    assert_eq!(waiting(8_500), 1);
    // After eighteen hours a second has the same number again.
    assert_eq!(waiting(1_000 * (1 << 16) + 60_000), 0);
}

#[test]
fn a_latecomer_does_not_take_a_subscriber_back() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    let mut machine = Breaker::new(BreakerSettings::default(), 0, start);
    let earlier = machine.isolate(start).unwrap();
    let later = machine.close_by_hand(start).unwrap();
    let state = circuit.notifier.subscribe();
    circuit.notifier.notify(&later);
    circuit.notifier.notify(&earlier);
    assert_eq!(*state.borrow(), CircuitState::Closed);
}

#[test]
fn one_tenant_opens_no_circuit_for_another() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    let call = |caller, result, shard: usize, after| {
        let now = start + after;
        let grant = circuit.admit(|| now).unwrap().grant;
        circuit.shards[shard].settle(settled(grant, result, caller, now));
    };
    let (one, other) = (Caller::Tenant(1 << 32), Caller::Tenant(2 << 32));
    call(other, CallResult::SUCCESS, 0, S);
    // Its successes elsewhere do not hide the other's.
    call(one, CallResult::SUCCESS, 0, 2 * S);
    (0..100).for_each(|_| call(one, FAILED, 1, 60 * S));
    assert!(circuit.passes());
    (0..4).for_each(|_| call(one, FAILED, 1, 62 * S));
    assert!(circuit.passes());
    call(one, FAILED, 1, 62 * S);
    assert!(!circuit.passes(), "the other was last served more than a minute ago");
}

#[test]
fn a_health_probe_is_no_other_caller() {
    let start = Instant::now();
    let circuit = circuit(BreakerSettings::default(), start);
    circuit.with(|machine| ((), machine.open_by_hand(Duration::ZERO, start)));
    let CircuitPermit { shard, grant } = circuit.admit_health(start).unwrap();
    shard.settle(settled(grant, CallResult::SUCCESS, Caller::Anonymous, start));
    assert!(circuit.passes());
    let CircuitPermit { shard, grant } = circuit.admit(|| start).unwrap();
    shard.settle(settled(grant, FAILED, Caller::Tenant(1 << 32), start));
    assert!(!circuit.passes(), "a failure after the circuit has closed counts");
}
