//! The shared machine does what the machine does.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::event::Emitter;
use crate::policy::breaker::report::CircuitState;
use crate::policy::breaker::settings::Settings;
use crate::policy::window::CircuitWindow;

const S: Duration = Duration::from_secs(1);
const LANES: usize = 4;

fn circuit(settings: Settings, start: Instant) -> Arc<Circuit> {
    let teller = StateNotifier::new(None, Emitter::default(), CircuitState::Closed, Weak::new());
    Circuit::new(Breaker::new(settings, 0, start), LANES, &Classification::default(), teller, start)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(Duration),
    Admit,
    /// The call by its place among those that are out, and the lane of the thread that ends it.
    Settle(usize, usize, CallResult),
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
    let ended =
        (health, prop::bool::weighted(0.1)).prop_map(|(health, slow)| CallResult { health, slow, retry_after: None });
    prop_oneof![
        4 => (0_u32..8).prop_map(|n| Step::Pass(n * S / 4)),
        1 => (0_u32..60).prop_map(|n| Step::Pass(n * S)),
        16 => Just(Step::Admit),
        16 => (0_usize..6, 0..LANES, ended).prop_map(|(which, lane, ended)| Step::Settle(which, lane, ended)),
        1 => Just(Step::Isolate),
        1 => Just(Step::Close),
        1 => Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn counting_in_lanes_changes_nothing(
        min_calls in 1_u32..12,
        ratio in 1_u32..=10,
        slow: bool,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut now = Instant::now();
        let settings = Settings {
            window: CircuitWindow::Time(10 * S),
            min_calls: NonZeroU32::new(min_calls).unwrap(),
            failure_ratio: f64::from(ratio) / 10.0,
            slow_ratio: slow.then_some(0.3),
            jitter: 0.0,
            ..Settings::default()
        };
        let mut machine = Breaker::new(settings.clone(), 0, now);
        let circuit = circuit(settings, now);
        let mut out = vec![];
        for step in steps {
            match step {
                Step::Pass(time) => now += time,
                Step::Admit => {
                    let (admission, _) = machine.admit(now);
                    match (circuit.admit(|| now), admission) {
                        (Ok(permit), Admission::Granted(grant)) => out.push((permit, grant)),
                        (Err(found), Admission::Refused { retry_after }) => prop_assert_eq!(found, retry_after),
                        different => prop_assert!(false, "{different:?}"),
                    }
                }
                Step::Settle(which, lane, ended) if which < out.len() => {
                    let (permit, grant) = out.remove(which);
                    machine.settle(grant, ended, now);
                    if grant.is_call() {
                        circuit.lanes[lane].settle(grant, ended, now);
                    } else {
                        permit.settle(ended, now);
                    }
                }
                Step::Settle(..) => {}
                Step::Isolate => {
                    machine.isolate(now);
                    circuit.with(|machine| ((), machine.isolate(now)));
                }
                Step::Close => {
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
    let circuit = circuit(Settings::default(), start);
    let held = lock(&circuit.machine);
    for _ in 0..100 {
        let permit = circuit.admit(|| start).unwrap();
        permit.settle(CallResult { health: Health::Success, slow: false, retry_after: None }, start);
    }
    drop(held);
    assert_eq!(circuit.snapshot(start).figures.calls, 100);
}

#[test]
fn while_open_a_refusal_takes_no_lock() {
    let start = Instant::now();
    let circuit = circuit(Settings::default(), start);
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
    let circuit = circuit(Settings::default(), start);
    let call = circuit.admit(|| start).unwrap();
    circuit.with(|machine| ((), machine.open_by_hand(Duration::ZERO, start)));
    let probe = circuit.admit(|| start).unwrap();
    drop(circuit);
    let bad = CallResult { health: Health::Failure, slow: false, retry_after: None };
    call.settle(bad, start);
    probe.settle(bad, start);
}

#[test]
fn a_lane_that_has_counted_all_it_can_starts_again() {
    let start = Instant::now();
    let circuit = circuit(Settings::default(), start);
    let permit = circuit.admit(|| start).unwrap();
    let Permit::Call { lane, generation } = &permit else { panic!("a probe") };
    lane.word.store(word(*generation, u32::MAX), Ordering::Relaxed);
    permit.settle(CallResult { health: Health::Success, slow: false, retry_after: None }, start);
    assert_eq!(circuit.snapshot(start).figures.calls, u64::from(u32::MAX) + 1);
}

#[test]
fn a_latecomer_does_not_take_a_subscriber_back() {
    let start = Instant::now();
    let circuit = circuit(Settings::default(), start);
    let mut machine = Breaker::new(Settings::default(), 0, start);
    let earlier = machine.isolate(start).unwrap();
    let later = machine.close_by_hand(start).unwrap();
    let state = circuit.teller.subscribe();
    circuit.teller.tell(&later, &circuit.this);
    circuit.teller.tell(&earlier, &circuit.this);
    assert_eq!(*state.borrow(), CircuitState::Closed);
}
