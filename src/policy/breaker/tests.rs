//! One rule a test. That all of them hold together is for `model` to show.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use super::report::{CircuitChange, CircuitReason, CircuitState};
use super::settings::Settings;
use super::{Admission, Breaker, BreakerEvent, CallResult, Grant, Role};
use crate::policy::verdict::Health;
use crate::policy::window::CircuitWindow;

const S: Duration = Duration::from_secs(1);
const GOOD: CallResult = CallResult { health: Health::Success, slow: false, retry_after: None };
const SLOW: CallResult = CallResult { slow: true, ..GOOD };
const BAD: CallResult = CallResult { health: Health::Failure, ..GOOD };
const THROTTLED: CallResult = CallResult { health: Health::Throttled, ..GOOD };
const NEUTRAL: CallResult = CallResult { health: Health::Ignored, ..GOOD };

/// A machine and its time.
struct Circuit {
    machine: Breaker,
    now: Instant,
}

impl Circuit {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { jitter: 0.0, ..Settings::default() };
        change(&mut settings);
        let now = Instant::now();
        Self { machine: Breaker::new(settings, 0, now), now }
    }

    fn open() -> Self {
        let mut circuit = Self::new(|_| {});
        circuit.calls(5, BAD);
        assert_eq!(circuit.state(), CircuitState::Open);
        circuit
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn admit(&mut self) -> Admission {
        self.machine.admit(self.now).0
    }

    fn grant(&mut self) -> Grant {
        match self.admit() {
            Admission::Granted(grant) => grant,
            refused @ Admission::Refused { .. } => panic!("{refused:?}"),
        }
    }

    fn settle(&mut self, grant: Grant, ended: CallResult) -> Option<BreakerEvent> {
        self.machine.settle(grant, ended, self.now)
    }

    fn call(&mut self, ended: CallResult) -> Option<CircuitChange> {
        let grant = self.grant();
        match self.settle(grant, ended)? {
            BreakerEvent::Changed(change) => Some(change),
            reached @ BreakerEvent::Reached { .. } => panic!("{reached:?}"),
        }
    }

    fn calls(&mut self, n: u32, ended: CallResult) {
        for _ in 0..n {
            self.call(ended);
        }
    }

    fn state(&self) -> CircuitState {
        self.machine.state()
    }

    fn health_probe(&mut self) -> Option<Grant> {
        self.machine.admit_health(self.now)
    }

    fn open_for(&mut self) -> Option<Duration> {
        self.machine.snapshot(self.now).open_for
    }
}

fn some(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn refused(after: Duration) -> Admission {
    Admission::Refused { retry_after: Some(after) }
}

#[test]
fn five_failures_in_a_row_open_with_the_closed_states_figures() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(4, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.call(BAD).unwrap();
    assert_eq!((change.from, change.to), (CircuitState::Closed, CircuitState::Open));
    assert_eq!(change.cause, CircuitReason::ConsecutiveFailures);
    assert_eq!((change.figures.calls, change.figures.failures, change.figures.consecutive), (5, 5, 5));
    assert_eq!(change.open_for, Some(5 * S));
}

#[test]
fn a_success_ends_the_run_and_a_throttled_call_neither_ends_nor_extends_it() {
    let mut circuit = Circuit::new(|s| s.min_calls = some(100));
    circuit.calls(4, BAD);
    circuit.call(GOOD);
    circuit.calls(4, BAD);
    circuit.calls(3, THROTTLED);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.call(BAD).unwrap().cause, CircuitReason::ConsecutiveFailures);
}

#[test]
fn on_a_busy_upstream_a_run_counts_only_after_a_silent_second() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1000, GOOD);
    circuit.pass(S - Duration::from_nanos(1)).calls(50, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.pass(Duration::from_nanos(1)).call(BAD).unwrap();
    assert_eq!(change.cause, CircuitReason::ConsecutiveFailures);
}

#[test]
fn the_failure_ratio_counts_from_the_minimum_of_calls_on() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.calls(4, BAD);
    circuit.calls(5, GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.call(BAD).unwrap();
    assert_eq!(change.cause, CircuitReason::FailureRatio);
    assert_eq!(change.figures.failure_ratio(), Some(0.5));
}

#[test]
fn a_success_that_fills_the_minimum_can_show_that_half_of_the_calls_failed() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.calls(5, BAD);
    circuit.calls(4, GOOD);
    assert!(circuit.machine.fast().is_none(), "such a success must be counted here");
    assert_eq!(circuit.call(GOOD).unwrap().cause, CircuitReason::FailureRatio);
}

#[test]
fn throttled_calls_count_for_the_ratio_but_never_for_the_run() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(9, THROTTLED);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.call(THROTTLED).unwrap();
    assert_eq!(change.cause, CircuitReason::FailureRatio);
    assert_eq!((change.figures.throttled, change.figures.consecutive), (10, 0));
}

#[test]
fn a_neutral_call_is_not_counted() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(100, NEUTRAL);
    circuit.calls(4, BAD);
    circuit.calls(100, NEUTRAL);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 4);
    assert!(circuit.call(BAD).is_some());
}

#[test]
fn slow_calls_have_a_ratio_of_their_own() {
    let mut circuit = Circuit::new(|s| s.slow_ratio = Some(0.8));
    circuit.calls(2, GOOD);
    circuit.calls(7, SLOW);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.call(SLOW).unwrap().cause, CircuitReason::SlowRatio);
}

#[test]
fn a_call_leaves_the_time_window_with_its_bucket() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.pass(5 * S).calls(9, BAD);
    let calls = |circuit: &mut Circuit| circuit.machine.snapshot(circuit.now).figures.calls;
    circuit.pass(54 * S);
    assert_eq!(calls(&mut circuit), 9, "the first bucket of six seconds is remembered for sixty");
    circuit.pass(S);
    assert_eq!(calls(&mut circuit), 0);
    circuit.call(BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn a_gap_longer_than_the_window_clears_it() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.calls(9, BAD);
    circuit.pass(86_400 * S).call(BAD);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 1);
}

#[test]
fn the_call_window_really_slides() {
    let mut circuit = Circuit::new(|s| {
        s.window = CircuitWindow::Calls(NonZeroU16::new(10).unwrap());
        s.consecutive = None;
    });
    circuit.calls(4, BAD);
    circuit.calls(6, GOOD);
    // Each new failure pushes an old one out: always four of ten.
    circuit.calls(4, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert!(circuit.call(BAD).is_some());
}

#[test]
fn a_minimum_beyond_the_call_window_means_a_full_window() {
    let mut circuit = Circuit::new(|s| {
        s.window = CircuitWindow::Calls(NonZeroU16::new(3).unwrap());
        s.consecutive = None;
    });
    circuit.calls(2, BAD);
    assert!(circuit.call(BAD).is_some());
}

#[test]
fn an_open_circuit_refuses_until_its_time_is_over() {
    let mut circuit = Circuit::open();
    assert_eq!(circuit.admit(), refused(5 * S));
    assert_eq!(circuit.pass(5 * S - Duration::from_nanos(1)).admit(), refused(Duration::from_nanos(1)));
    let probe = circuit.pass(Duration::from_nanos(1)).grant();
    assert_eq!(probe.role, Role::Probe { id: 1 });
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[test]
fn the_open_time_doubles_and_starts_again_after_a_success() {
    let mut circuit = Circuit::open();
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        let open_for = circuit.open_for().unwrap();
        let probe = circuit.pass(open_for).grant();
        circuit.settle(probe, BAD);
        assert_eq!(circuit.open_for(), Some(seconds * S));
    }
    let probe = circuit.pass(300 * S).grant();
    circuit.settle(probe, GOOD);
    circuit.calls(5, BAD);
    assert_eq!(circuit.open_for(), Some(5 * S));
}

#[test]
fn a_successful_probe_closes_with_a_clear_window() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    let Some(BreakerEvent::Changed(change)) = circuit.settle(probe, GOOD) else { panic!("no change") };
    assert_eq!(change.cause, CircuitReason::ProbesSucceeded);
    assert_eq!((change.figures.calls, change.figures.failures), (1, 0), "what the half-open state had seen");
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 0);
}

#[test]
fn no_more_probes_than_allowed_and_all_must_succeed() {
    let mut circuit = Circuit::new(|s| s.probes = some(3));
    circuit.calls(5, BAD);
    circuit.pass(5 * S);
    let probes = [circuit.grant(), circuit.grant(), circuit.grant()];
    assert_eq!(circuit.admit(), refused(5 * S));
    circuit.settle(probes[0], GOOD);
    circuit.settle(probes[1], GOOD);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    circuit.settle(probes[2], GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn fewer_successes_than_probes_can_be_enough() {
    let mut circuit = Circuit::new(|s| {
        s.probes = some(3);
        s.successes = Some(some(1));
    });
    circuit.calls(5, BAD);
    circuit.pass(5 * S);
    let probes = [circuit.grant(), circuit.grant()];
    circuit.settle(probes[1], GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    // Late, and of another generation.
    assert_eq!(circuit.settle(probes[0], BAD), None);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 0);
}

#[test]
fn a_probe_that_is_throttled_or_slow_opens() {
    for ended in [BAD, THROTTLED, SLOW] {
        let mut circuit = Circuit::open();
        let probe = circuit.pass(5 * S).grant();
        circuit.settle(probe, ended);
        assert_eq!(circuit.open_for(), Some(10 * S));
    }
}

#[test]
fn a_neutral_probe_frees_its_place() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    assert_eq!(circuit.admit(), refused(5 * S));
    assert_eq!(circuit.settle(probe, NEUTRAL), None);
    assert_eq!(circuit.grant().role, Role::Probe { id: 2 });
}

#[test]
fn a_result_of_another_generation_moves_nothing() {
    let mut circuit = Circuit::new(|_| {});
    let old = [circuit.grant(), circuit.grant()];
    circuit.calls(5, BAD);
    let probe = circuit.pass(5 * S).grant();
    circuit.settle(old[0], BAD);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    circuit.settle(probe, GOOD);
    circuit.settle(old[1], BAD);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 0);
}

#[test]
fn a_settled_probes_body_counts_under_the_generation_it_opened() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    let (rest, _) = circuit.machine.exchange(probe, GOOD, circuit.now);
    assert_eq!(circuit.state(), CircuitState::Closed);
    circuit.settle(rest.unwrap(), BAD);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.failures, 1);
    assert_eq!(circuit.settle(probe, BAD), None, "the probe itself has been settled");
}

#[test]
fn while_half_open_a_body_that_breaks_off_opens_and_one_that_ends_well_is_no_second_success() {
    let half_open = || {
        let mut circuit = Circuit::new(|s| s.successes = Some(some(2)));
        circuit.calls(5, BAD);
        let probe = circuit.pass(5 * S).grant();
        let rest = circuit.machine.exchange(probe, GOOD, circuit.now).0.unwrap();
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        (circuit, rest)
    };
    let (mut circuit, rest) = half_open();
    circuit.settle(rest, GOOD);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    let (mut circuit, rest) = half_open();
    circuit.settle(rest, BAD);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[test]
fn a_probe_that_the_upstream_lets_wait_opens_at_the_next_admission() {
    let mut circuit = Circuit::new(|s| s.probe_timeout = 3 * S);
    circuit.calls(5, BAD);
    let probe = circuit.pass(5 * S).grant();
    circuit.machine.probe_waits(probe, circuit.now);
    assert_eq!(circuit.pass(2 * S).admit(), refused(S));
    // Its consumer took two seconds over what came: they do not count.
    circuit.machine.probe_rests(probe, circuit.now);
    circuit.pass(2 * S);
    circuit.machine.probe_waits(probe, circuit.now);
    assert_eq!(circuit.admit(), refused(S));
    assert_eq!(circuit.pass(S).admit(), refused(10 * S));
    assert_eq!(circuit.settle(probe, GOOD), None, "too late");
}

#[test]
fn a_probe_whose_consumer_lets_it_lie_is_neutral_and_frees_its_place() {
    let mut circuit = Circuit::new(|s| s.probe_timeout = 3 * S);
    circuit.calls(5, BAD);
    let probe = circuit.pass(5 * S).grant();
    circuit.machine.probe_waits(probe, circuit.now);
    circuit.machine.probe_rests(probe, circuit.now);
    circuit.pass(2 * S);
    circuit.machine.probe_rests(probe, circuit.now);
    assert_eq!(circuit.pass(S - Duration::from_nanos(1)).admit(), refused(Duration::from_nanos(1)));
    let next = circuit.pass(Duration::from_nanos(1)).grant();
    assert_eq!(circuit.machine.exchange(probe, GOOD, circuit.now), (None, None), "it had been given up");
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    circuit.settle(next, GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn retry_after_on_a_failure_extends_the_open_time_up_to_the_maximum() {
    for (asked, open_for) in [(1, 5), (60, 60), (3_600, 300)] {
        let mut circuit = Circuit::new(|_| {});
        circuit.calls(4, BAD);
        circuit.call(CallResult { retry_after: Some(asked * S), ..BAD });
        assert_eq!(circuit.open_for(), Some(open_for * S));
    }
    // It stands, though the failure that opened said nothing; and a success that named a time asked for none.
    let mut circuit = Circuit::new(|_| {});
    circuit.call(CallResult { retry_after: Some(60 * S), ..THROTTLED });
    circuit.call(CallResult { retry_after: Some(90 * S), ..GOOD });
    circuit.pass(20 * S).calls(5, BAD);
    assert_eq!(circuit.open_for(), Some(40 * S));
}

#[test]
fn by_hand_an_isolated_circuit_stays_until_it_is_closed() {
    let mut circuit = Circuit::new(|_| {});
    assert!(circuit.machine.isolate(circuit.now).is_some());
    assert_eq!(circuit.machine.isolate(circuit.now), None, "no transition twice");
    circuit.pass(86_400 * S);
    assert_eq!(circuit.admit(), Admission::Refused { retry_after: None });
    assert!(circuit.machine.close_by_hand(circuit.now).is_some());
    assert_eq!(circuit.machine.close_by_hand(circuit.now), None);
    circuit.grant();
}

#[test]
fn by_hand_an_open_circuit_probes_after_the_time_that_was_given() {
    let mut circuit = Circuit::open();
    assert_eq!(circuit.machine.open_by_hand(60 * S, circuit.now), None, "it was open before");
    assert_eq!(circuit.pass(59 * S).admit(), refused(S));
    let probe = circuit.pass(S).grant();
    assert!(matches!(probe.role, Role::Probe { .. }));
}

#[test]
fn a_circuit_that_only_counts_tells_once_that_it_would_have_opened() {
    let mut circuit = Circuit::new(|s| s.metrics_only = true);
    let mut told = 0;
    for ended in [[BAD; 8], [GOOD; 8], [BAD; 8]].as_flattened() {
        let grant = circuit.grant();
        told += u32::from(circuit.settle(grant, *ended).is_some());
    }
    // Five in a row; then at three of eleven it was healthy again; then at half.
    assert_eq!(told, 2);
    assert_eq!(circuit.state(), CircuitState::MetricsOnly);
}

#[test]
fn a_disabled_circuit_counts_nothing() {
    let mut circuit = Circuit::new(|_| {});
    circuit.machine.disable(circuit.now);
    circuit.calls(100, BAD);
    circuit.machine.absorb(100, circuit.now);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 0);
    circuit.machine.close_by_hand(circuit.now);
    assert_eq!(circuit.machine.snapshot(circuit.now).figures.calls, 0);
}

#[test]
fn a_health_probe_closes_an_open_circuit_and_spares_the_callers() {
    let mut circuit = Circuit::open();
    assert!(circuit.machine.begin_health(2 * S));
    assert!(!circuit.machine.begin_health(2 * S), "one is enough");
    let failed = circuit.health_probe().unwrap();
    assert_eq!(circuit.settle(failed, BAD), None, "it was open before");
    assert_eq!(circuit.pass(5 * S).admit(), refused(2 * S), "no caller is made a probe");
    let probe = circuit.health_probe().unwrap();
    let Some(BreakerEvent::Changed(change)) = circuit.settle(probe, GOOD) else { panic!("no change") };
    assert_eq!((change.to, change.cause), (CircuitState::Closed, CircuitReason::HealthProbeSucceeded));
}

#[test]
fn no_health_probe_while_the_upstream_asked_for_time_or_somebody_opened_the_circuit() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(4, BAD);
    circuit.call(CallResult { retry_after: Some(60 * S), ..BAD });
    assert_eq!(circuit.pass(60 * S - Duration::from_nanos(1)).health_probe(), None);
    let probe = circuit.pass(Duration::from_nanos(1)).health_probe().unwrap();
    circuit.machine.open_by_hand(10 * S, circuit.now);
    assert_eq!(circuit.settle(probe, GOOD), None, "it was sent before");
    assert_eq!(circuit.health_probe(), None);
    assert!(circuit.pass(10 * S).health_probe().is_some());
}
