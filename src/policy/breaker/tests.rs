//! One rule per test. `model` tests all rules together.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use super::report::{CircuitChange, CircuitReason, CircuitState};
use super::settings::BreakerSettings;
use super::{Breaker, BreakerEvent, CallGrant, CallResult, CallRole, Caller, CircuitDecision, Counted, Refuses};
use crate::policy::verdict::Health;
use crate::policy::window::{CircuitWindow, CountedIn};

const S: Duration = Duration::from_secs(1);
const GOOD: CallResult = CallResult::SUCCESS;
const SLOW: CallResult = CallResult { slow: true, ..GOOD };
const BAD: CallResult = CallResult { health: Health::Failure, ..GOOD };
const NO_ANSWER: CallResult = CallResult::UNANSWERED;
const THROTTLED: CallResult = CallResult { health: Health::Throttled, ..GOOD };
const NEUTRAL: CallResult = CallResult { health: Health::Ignored, ..GOOD };
const NANO: Duration = Duration::from_nanos(1);

/// A machine and its time.
struct Circuit {
    machine: Breaker,
    now: Instant,
}

impl Circuit {
    fn new(change: impl FnOnce(&mut BreakerSettings)) -> Self {
        let mut settings =
            BreakerSettings { jitter: 0.0, min_calls: some(10), failure_ratio: 0.5, ..BreakerSettings::default() };
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

    fn admit(&mut self) -> CircuitDecision {
        self.machine.admit(self.now).0
    }

    fn grant(&mut self) -> CallGrant {
        match self.admit() {
            CircuitDecision::Granted(grant) => grant,
            refused @ CircuitDecision::Refused { .. } => panic!("{refused:?}"),
        }
    }

    fn settle(&mut self, grant: CallGrant, ended: CallResult) -> Option<BreakerEvent> {
        self.machine.settle(grant, ended, 0, self.now).1
    }

    /// A call that has brought its first data.
    fn begin_stream(&mut self) -> Counted {
        let grant = self.grant();
        self.machine.settle(grant, GOOD, 0, self.now).0
    }

    fn finish(&mut self, stream: Counted, ended: CallResult) -> Option<BreakerEvent> {
        self.machine.finish(stream, ended, 0, self.now)
    }

    fn cancel(&mut self, caller: Caller) -> Option<BreakerEvent> {
        let grant = self.grant();
        self.machine.cancel(grant, caller, false, 0, self.now)
    }

    fn seen(&mut self) -> (u64, u64) {
        let stats = self.machine.snapshot(self.now).stats;
        (stats.calls, stats.failures)
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

    fn health_probe(&mut self) -> Option<CallGrant> {
        self.machine.admit_health(self.now)
    }

    fn open_for(&mut self) -> Option<Duration> {
        self.machine.snapshot(self.now).open_for
    }
}

fn some(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn refused(after: Duration) -> CircuitDecision {
    CircuitDecision::Refused { retry_after: Some(after) }
}

#[test]
fn five_failures_in_a_row_open_with_the_closed_states_stats() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(4, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.call(BAD).unwrap();
    assert_eq!((change.from, change.to), (CircuitState::Closed, CircuitState::Open));
    assert_eq!(change.reason, CircuitReason::ConsecutiveFailures);
    assert_eq!((change.stats.calls, change.stats.failures, change.stats.consecutive), (5, 5, 5));
    assert_eq!(change.open_for, Some(5 * S));
}

#[test]
fn a_success_ends_the_run_and_a_throttled_call_neither_ends_nor_extends_it() {
    let mut circuit = Circuit::new(|s| s.min_calls = some(100));
    circuit.calls(4, BAD);
    circuit.call(GOOD);
    circuit.calls(4, BAD);
    circuit.calls(3, THROTTLED);
    circuit.pass(5 * S);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.call(BAD).unwrap().reason, CircuitReason::ConsecutiveFailures);
}

#[test]
fn a_run_opens_only_when_nothing_was_heard_for_five_seconds() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1000, GOOD);
    circuit.pass(5 * S - NANO).calls(14, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.pass(NANO).call(BAD).unwrap();
    assert_eq!(change.reason, CircuitReason::ConsecutiveFailures);
}

#[test]
fn data_of_an_old_stream_is_evidence_of_life() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1000, GOOD);
    circuit.pass(9 * S);
    circuit.machine.note_sign_of_life(circuit.now);
    circuit.pass(4 * S).calls(14, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    circuit.pass(S).call(BAD).unwrap();
}

#[test]
fn a_run_three_times_as_long_opens_beside_streams_that_flow_once_it_has_lasted_for_five_seconds() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1000, GOOD);
    circuit.calls(14, BAD);
    circuit.pass(5 * S);
    circuit.machine.note_sign_of_life(circuit.now);
    assert_eq!(circuit.call(BAD).unwrap().reason, CircuitReason::ConsecutiveFailures);

    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1000, GOOD);
    circuit.calls(20, BAD);
    circuit.pass(5 * S - NANO);
    circuit.machine.note_sign_of_life(circuit.now);
    circuit.calls(1, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn calls_that_wait_count_as_successes() {
    let fail = |circuit: &mut Circuit, waiting| {
        let grant = circuit.grant();
        circuit.machine.settle(grant, BAD, waiting, circuit.now);
    };
    let mut circuit = Circuit::new(|s| s.min_calls = some(100));
    (0..8).for_each(|_| fail(&mut circuit, 2));
    assert_eq!(circuit.state(), CircuitState::Closed);
    fail(&mut circuit, 2);
    assert_eq!(circuit.state(), CircuitState::Open);

    let mut circuit = Circuit::new(|s| s.consecutive = None);
    (0..9).for_each(|_| fail(&mut circuit, 0));
    fail(&mut circuit, 11);
    assert_eq!(circuit.state(), CircuitState::Closed, "ten of twenty-one");
    fail(&mut circuit, 11);
    assert_eq!(circuit.state(), CircuitState::Open, "eleven of twenty-two");
}

#[test]
fn a_body_that_fails_takes_its_success_back() {
    let mut circuit = Circuit::new(|_| {});
    let stream = circuit.begin_stream();
    assert_eq!(circuit.seen(), (1, 0));
    assert_eq!(circuit.finish(stream, BAD), None);
    assert_eq!(circuit.seen(), (1, 1));
    // A call that ends well, and one that its caller cancelled, change nothing.
    for end in [GOOD, NEUTRAL] {
        let stream = circuit.begin_stream();
        circuit.finish(stream, end);
    }
    assert_eq!(circuit.seen(), (3, 1));
}

#[test]
fn a_success_that_has_left_the_window_is_not_taken_back() {
    let mut circuit = Circuit::new(|_| {});
    let (early, late) = (circuit.begin_stream(), circuit.pass(7 * S).begin_stream());
    circuit.pass(54 * S).calls(2, GOOD);
    assert_eq!(circuit.seen(), (3, 0));
    circuit.finish(early, BAD);
    assert_eq!(circuit.seen(), (4, 1));
    circuit.finish(late, BAD);
    assert_eq!(circuit.seen(), (4, 2));
}

#[test]
fn of_the_last_calls_one_whose_body_fails_has_failed_in_its_place() {
    let mut circuit = Circuit::new(|s| {
        s.window = CircuitWindow::Calls(NonZeroU16::new(3).unwrap());
        s.consecutive = None;
        s.failure_ratio = 1.0;
    });
    let first = circuit.begin_stream();
    let second = circuit.begin_stream();
    circuit.calls(2, GOOD);
    circuit.finish(second, BAD);
    assert_eq!(circuit.seen(), (3, 1));
    circuit.finish(first, BAD);
    assert_eq!(circuit.seen(), (3, 1), "it pushed the other one out");
    circuit.calls(2, GOOD);
    assert_eq!(circuit.seen(), (3, 1));
}

#[test]
fn a_run_goes_on_where_the_success_that_ended_it_is_taken_back() {
    let mut circuit = Circuit::new(|_| {});
    for _ in 0..4 {
        let stream = circuit.begin_stream();
        circuit.pass(20 * S);
        assert_eq!(circuit.finish(stream, BAD), None);
    }
    let stream = circuit.begin_stream();
    circuit.pass(20 * S);
    let Some(BreakerEvent::Changed(change)) = circuit.finish(stream, BAD) else { panic!("no change") };
    assert_eq!((change.reason, change.stats.consecutive), (CircuitReason::ConsecutiveFailures, 5));
    // A success that is not revoked ends the run.
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(4, BAD);
    let stream = circuit.begin_stream();
    circuit.calls(1, GOOD);
    circuit.pass(20 * S);
    circuit.finish(stream, BAD);
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.consecutive, 1);
}

#[test]
fn a_call_that_turns_out_to_be_slow_is_counted_as_one() {
    let mut circuit = Circuit::new(|s| s.slow_ratio = Some(1.0));
    let stream = circuit.begin_stream();
    circuit.finish(stream, SLOW);
    let stats = circuit.machine.snapshot(circuit.now).stats;
    assert_eq!((stats.calls, stats.failures, stats.slow), (1, 0, 1));
}

#[test]
fn calls_that_two_tenants_cancel_count_in_a_row() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1, GOOD);
    for _ in 0..2 {
        circuit.pass(10 * S);
        assert_eq!(circuit.cancel(Caller::Tenant(1)), None);
        assert_eq!(circuit.cancel(Caller::Tenant(2)), None);
    }
    circuit.pass(10 * S);
    assert!(circuit.cancel(Caller::Tenant(1)).is_some());
}

#[test]
fn a_tenant_counts_once_in_ten_seconds() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1, GOOD);
    circuit.cancel(Caller::Tenant(1));
    circuit.pass(10 * S - NANO).cancel(Caller::Tenant(1));
    assert_eq!(circuit.seen(), (2, 1));
    circuit.pass(NANO).cancel(Caller::Tenant(1));
    assert_eq!(circuit.seen(), (3, 2));
}

#[test]
fn one_tenant_alone_opens_only_after_a_minute_of_silence() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1, GOOD);
    for _ in 0..5 {
        assert_eq!(circuit.pass(12 * S - NANO).cancel(Caller::Tenant(1)), None);
    }
    assert!(circuit.pass(10 * S).cancel(Caller::Tenant(1)).is_some());
}

#[test]
fn a_failure_that_only_one_caller_has_is_its_own_while_others_are_served() {
    let (one, other) = (Caller::Tenant(1), Caller::Tenant(2));
    let mut circuit = Circuit::new(|_| {});
    let grant = circuit.grant();
    let mut counts = |caller, result, others_are_served, pause| {
        circuit.pass(pause);
        circuit.machine.attribute(grant, result, caller, || others_are_served, circuit.now) == result
    };
    assert!(!counts(one, BAD, true, S));
    assert!(!counts(one, THROTTLED, true, S));
    assert!(counts(one, GOOD, true, S));
    assert!(counts(one, BAD, false, S), "no other caller is served");
    assert!(counts(one, NO_ANSWER, true, S), "no caller's doing");
    assert!(counts(other, BAD, true, S), "both have failures");
    assert!(counts(one, BAD, true, 10 * S));
    assert!(!counts(one, BAD, true, NANO), "that of the other is old");
    assert!(counts(other, BAD, true, S));
    (0..2).for_each(|_| assert!(counts(one, BAD, true, NANO)));
    assert!(!counts(one, BAD, true, NANO), "one failure of the other says little about many");
}

#[test]
fn a_failed_probe_counts_whoever_made_it() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    assert_eq!(circuit.machine.attribute(probe, BAD, Caller::Tenant(1), || true, circuit.now), BAD);
}

#[test]
fn callers_without_a_tenant_count_as_one() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(1, GOOD);
    (0..5).for_each(|_| assert_eq!(circuit.cancel(Caller::Anonymous), None));
    assert_eq!(circuit.seen(), (2, 1));
    for _ in 0..3 {
        assert_eq!(circuit.pass(10 * S).cancel(Caller::Anonymous), None);
    }
    assert!(circuit.cancel(Caller::Tenant(1)).is_some());
}

#[test]
fn soon_after_it_has_closed_one_failure_opens_it_again() {
    let closed = || {
        let mut circuit = Circuit::open();
        let probe = circuit.pass(5 * S).grant();
        circuit.settle(probe, GOOD);
        assert_eq!(circuit.state(), CircuitState::Closed);
        circuit
    };
    let change = closed().pass(10 * S - NANO).call(BAD).unwrap();
    assert_eq!((change.reason, change.open_for), (CircuitReason::FailedAfterClosing, Some(5 * S)));
    assert_eq!(closed().pass(10 * S).call(BAD), None);
    let mut circuit = closed();
    circuit.calls(1, GOOD);
    assert_eq!(circuit.call(BAD), None, "it works");
    let mut circuit = closed();
    circuit.machine.absorb(1);
    assert_eq!(circuit.call(BAD), None, "it works, as was counted elsewhere");
}

#[test]
fn the_failure_ratio_counts_from_the_minimum_of_calls_on() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.calls(4, BAD);
    circuit.calls(5, GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.call(BAD).unwrap();
    assert_eq!(change.reason, CircuitReason::FailureRatio);
    assert_eq!(change.stats.failure_ratio(), Some(0.5));
}

#[test]
fn a_success_that_fills_the_minimum_can_show_that_half_of_the_calls_failed() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.calls(5, BAD);
    circuit.calls(4, GOOD);
    assert!(circuit.machine.fast().is_none(), "such a success must be counted here");
    assert_eq!(circuit.call(GOOD).unwrap().reason, CircuitReason::FailureRatio);
}

#[test]
fn throttled_calls_count_for_the_ratio_but_never_for_the_run() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(9, THROTTLED);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let change = circuit.call(THROTTLED).unwrap();
    assert_eq!(change.reason, CircuitReason::FailureRatio);
    assert_eq!((change.stats.throttled, change.stats.consecutive), (10, 0));
}

#[test]
fn a_neutral_call_is_not_counted() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(100, NEUTRAL);
    circuit.calls(4, BAD);
    circuit.calls(100, NEUTRAL);
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 4);
    assert!(circuit.call(BAD).is_some());
}

#[test]
fn slow_calls_have_a_ratio_of_their_own() {
    let mut circuit = Circuit::new(|s| s.slow_ratio = Some(0.8));
    circuit.calls(2, GOOD);
    circuit.calls(7, SLOW);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.call(SLOW).unwrap().reason, CircuitReason::SlowRatio);
}

#[test]
fn a_call_leaves_the_time_window_with_its_bucket() {
    let mut circuit = Circuit::new(|s| s.consecutive = None);
    circuit.pass(5 * S).calls(9, BAD);
    let calls = |circuit: &mut Circuit| circuit.machine.snapshot(circuit.now).stats.calls;
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
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 1);
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
    assert_eq!(circuit.pass(5 * S - NANO).admit(), refused(NANO));
    let probe = circuit.pass(NANO).grant();
    assert_eq!(probe.role, CallRole::Probe { id: 1 });
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[test]
fn the_open_time_doubles_for_probes_without_an_answer_and_starts_again_after_a_success() {
    let mut circuit = Circuit::open();
    let fails = |circuit: &mut Circuit, result, seconds| {
        let open_for = circuit.open_for().unwrap();
        let probe = circuit.pass(open_for).grant();
        circuit.settle(probe, result);
        assert_eq!(circuit.open_for(), Some(seconds * S));
    };
    for (result, seconds) in [(BAD, 5), (NO_ANSWER, 10), (BAD, 10), (NO_ANSWER, 15), (NO_ANSWER, 15)] {
        fails(&mut circuit, result, seconds);
    }
    let probe = circuit.pass(15 * S).grant();
    circuit.settle(probe, GOOD);
    circuit.calls(1, BAD);
    assert_eq!(circuit.open_for(), Some(5 * S));
}

#[test]
fn probes_begin_one_open_time_apart_even_when_they_take_longer() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    circuit.pass(4 * S).settle(probe, NO_ANSWER);
    assert_eq!(circuit.open_for(), Some(6 * S), "ten, four of which are over");
    let probe = circuit.pass(6 * S).grant();
    circuit.machine.admit(circuit.now);
    circuit.pass(10 * S);
    circuit.settle(probe, BAD);
    assert_eq!(circuit.open_for(), Some(Duration::ZERO));
    circuit.grant();
}

#[test]
fn a_successful_probe_closes_with_a_clear_window() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    let Some(BreakerEvent::Changed(change)) = circuit.settle(probe, GOOD) else { panic!("no change") };
    assert_eq!(change.reason, CircuitReason::ProbesSucceeded);
    assert_eq!((change.stats.calls, change.stats.failures), (1, 0), "what the half-open state had seen");
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 0);
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
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 0);
}

#[test]
fn a_probe_that_is_throttled_or_slow_opens() {
    for ended in [BAD, THROTTLED, SLOW] {
        let mut circuit = Circuit::open();
        let probe = circuit.pass(5 * S).grant();
        circuit.settle(probe, ended);
        assert_eq!(circuit.open_for(), Some(5 * S));
    }
}

#[test]
fn a_neutral_probe_frees_its_place() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    assert_eq!(circuit.admit(), refused(5 * S));
    assert_eq!(circuit.settle(probe, NEUTRAL), None);
    assert_eq!(circuit.grant().role, CallRole::Probe { id: 2 });
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
    circuit.machine.cancel(old[1], Caller::Anonymous, false, 0, circuit.now);
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 0);
}

#[test]
fn a_probes_body_counts_under_the_generation_it_opened() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    let (rest, _) = circuit.machine.settle(probe, GOOD, 0, circuit.now);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.settle(probe, BAD), None, "the probe itself has been settled");
    circuit.pass(10 * S).finish(rest, BAD);
    assert_eq!(circuit.seen(), (1, 1));
}

#[test]
fn while_half_open_a_body_that_breaks_off_opens_and_one_that_ends_well_is_no_second_success() {
    let half_open = || {
        let mut circuit = Circuit::new(|s| s.successes = Some(some(2)));
        circuit.calls(5, BAD);
        let probe = circuit.pass(5 * S).grant();
        let rest = circuit.machine.settle(probe, GOOD, 0, circuit.now).0;
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        (circuit, rest)
    };
    let (mut circuit, rest) = half_open();
    circuit.finish(rest, GOOD);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    let (mut circuit, rest) = half_open();
    circuit.finish(rest, BAD);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[test]
fn while_a_probe_waits_the_next_may_go_after_the_open_time() {
    let mut circuit = Circuit::open();
    let hung = circuit.pass(5 * S).grant();
    assert_eq!(circuit.pass(5 * S - NANO).admit(), refused(NANO));
    let second = circuit.pass(NANO).grant();
    assert_eq!(circuit.admit(), refused(10 * S), "it doubles: there was no answer");
    assert_eq!(circuit.settle(hung, NO_ANSWER), None, "the second decides");
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    circuit.settle(second, GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn a_probe_that_was_overtaken_closes_if_it_succeeds_and_opens_if_it_is_the_last() {
    let overtaken = || {
        let mut circuit = Circuit::open();
        let first = circuit.pass(5 * S).grant();
        let second = circuit.pass(5 * S).grant();
        (circuit, first, second)
    };
    let (mut circuit, first, _) = overtaken();
    circuit.settle(first, GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let (mut circuit, first, second) = overtaken();
    circuit.machine.give_back(second);
    circuit.settle(first, NO_ANSWER);
    assert_eq!(circuit.state(), CircuitState::Open);
    let (mut circuit, _, second) = overtaken();
    circuit.machine.cancel(second, Caller::Tenant(1), false, 0, circuit.now);
    assert_eq!(circuit.state(), CircuitState::Open, "it waited for long enough");
}

#[test]
fn a_probe_beyond_its_time_is_forgotten() {
    let mut circuit = Circuit::new(|s| s.probe_timeout = 3 * S);
    circuit.calls(5, BAD);
    let probe = circuit.pass(5 * S).grant();
    assert!(matches!(circuit.pass(3 * S - NANO).admit(), CircuitDecision::Refused { .. }));
    let next = circuit.pass(NANO).grant();
    assert_eq!(circuit.settle(probe, GOOD), None);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    circuit.settle(next, GOOD);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn retry_after_on_a_failure_extends_the_open_time_up_to_the_maximum() {
    for (asked, open_for) in [(1, 5), (10, 10), (3_600, 15)] {
        let mut circuit = Circuit::new(|_| {});
        circuit.calls(4, BAD);
        circuit.call(CallResult { retry_after: Some(asked * S), ..BAD });
        assert_eq!(circuit.open_for(), Some(open_for * S));
    }
    // The time stays, although the failure that opened the circuit named none; the time of a success is ignored.
    let mut circuit = Circuit::new(|_| {});
    circuit.call(CallResult { retry_after: Some(15 * S), ..THROTTLED });
    circuit.call(CallResult { retry_after: Some(60 * S), ..GOOD });
    circuit.pass(5 * S).calls(5, BAD);
    assert_eq!(circuit.open_for(), Some(10 * S));
}

#[test]
fn by_hand_an_isolated_circuit_stays_until_it_is_closed() {
    let mut circuit = Circuit::new(|_| {});
    assert!(circuit.machine.isolate(circuit.now).is_some());
    assert_eq!(circuit.machine.isolate(circuit.now), None, "no transition twice");
    circuit.pass(86_400 * S);
    assert_eq!(circuit.admit(), CircuitDecision::Refused { retry_after: None });
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
    assert!(matches!(probe.role, CallRole::Probe { .. }));
}

#[test]
fn a_circuit_that_only_counts_tells_once_that_it_would_have_opened() {
    let mut circuit = Circuit::new(|s| s.metrics_only = true);
    let mut reported = 0;
    for ended in [[BAD; 8], [GOOD; 8], [BAD; 8]].as_flattened() {
        let grant = circuit.grant();
        reported += u32::from(circuit.settle(grant, *ended).is_some());
    }
    // Five failures in a row; then three of eleven, which is healthy; then half.
    assert_eq!(reported, 2);
    assert_eq!(circuit.state(), CircuitState::MetricsOnly);
}

#[test]
fn a_disabled_circuit_counts_nothing() {
    let mut circuit = Circuit::new(|_| {});
    circuit.machine.disable(circuit.now);
    circuit.calls(100, BAD);
    circuit.machine.absorb(100);
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 0);
    circuit.machine.close_by_hand(circuit.now);
    assert_eq!(circuit.machine.snapshot(circuit.now).stats.calls, 0);
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
    assert_eq!((change.to, change.reason), (CircuitState::Closed, CircuitReason::HealthProbeSucceeded));
}

#[test]
fn what_a_slow_health_probe_says_at_its_end_does_not_put_off_the_next_open_time() {
    let mut circuit = Circuit::open();
    let probe = circuit.health_probe().unwrap();
    let (probe, event) = circuit.machine.settle(probe, SLOW, 0, circuit.now);
    assert_eq!((event, circuit.state()), (None, CircuitState::Open));
    assert_eq!(circuit.finish(probe, CallResult { retry_after: Some(60 * S), ..BAD }), None);

    let open_for = circuit.open_for().unwrap();
    let caller = circuit.pass(open_for).grant();
    circuit.settle(caller, BAD);
    assert_eq!(circuit.open_for(), Some(open_for), "as long as the first time, since the probe was answered");
}

#[test]
fn no_health_probe_while_the_upstream_asked_for_time_or_the_circuit_was_opened_by_hand() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(4, BAD);
    circuit.call(CallResult { retry_after: Some(60 * S), ..BAD });
    assert_eq!(circuit.pass(15 * S - NANO).health_probe(), None, "not longer than the longest open time");
    let probe = circuit.pass(NANO).health_probe().unwrap();
    circuit.machine.open_by_hand(10 * S, circuit.now);
    assert_eq!(circuit.settle(probe, GOOD), None, "it was sent before");
    assert_eq!(circuit.health_probe(), None);
    assert!(circuit.pass(10 * S).health_probe().is_some());
}

#[test]
fn while_health_probes_are_sent_retry_after_is_the_open_time_left_and_then_their_interval() {
    let mut circuit = Circuit::open();
    assert!(circuit.machine.begin_health(2 * S));
    assert_eq!(circuit.pass(S).admit(), refused(4 * S), "the open time is not over");
    assert_eq!(circuit.pass(4 * S).admit(), refused(2 * S));
    assert!(!circuit.machine.end_health_unless_open(), "it is open");
    circuit.machine.end_health();
    circuit.grant();
    assert!(circuit.machine.end_health_unless_open());
    assert!(!circuit.machine.begin_health(S), "it is half-open");
}

#[test]
fn a_call_that_may_not_probe_gets_a_retry_after_of_one_second() {
    let mut circuit = Circuit::open();
    circuit.machine.is_held = true;
    assert_eq!(circuit.pass(4 * S).admit(), refused(S), "what is left");
    assert_eq!(circuit.pass(S).admit(), refused(S), "another process tests the upstream");
    assert_eq!(circuit.pass(S).admit(), refused(S));
    circuit.machine.is_held = false;
    circuit.grant();
    // Half-open, with a probe that gets no answer: the next one is due.
    circuit.machine.is_held = true;
    assert_eq!(circuit.pass(60 * S).admit(), refused(S));
    circuit.machine.is_held = false;
    circuit.grant();
}

#[test]
fn what_passes_and_what_is_refused_is_known_without_asking() {
    let mut circuit = Circuit::new(|_| {});
    assert!(circuit.machine.passes() && circuit.machine.refuses().is_none() && !circuit.machine.is_pinned());
    circuit.calls(5, BAD);
    assert!(!circuit.machine.passes() && circuit.machine.is_pinned());
    assert_eq!(circuit.machine.refuses(), Some(Refuses::Until(circuit.now + 5 * S)));
    assert_eq!((circuit.machine.snapshot(circuit.now).opened, circuit.open_for()), (1, Some(5 * S)));
    circuit.pass(5 * S).grant();
    assert!(!circuit.machine.passes() && circuit.machine.refuses().is_none() && circuit.machine.is_pinned());
    assert_eq!((circuit.machine.snapshot(circuit.now).probes, circuit.open_for()), (1, None));
    circuit.machine.isolate(circuit.now);
    assert_eq!((circuit.machine.refuses(), circuit.open_for()), (Some(Refuses::Always), None));
    assert!(!circuit.machine.passes() && circuit.machine.is_pinned());
    circuit.machine.disable(circuit.now);
    assert!(circuit.machine.passes() && circuit.machine.refuses().is_none() && circuit.machine.is_pinned());
    circuit.machine.only_count(circuit.now);
    assert!(circuit.machine.passes() && circuit.machine.is_pinned(), "by hand");
    let mut counts = Circuit::new(|s| s.metrics_only = true);
    assert!(counts.machine.passes() && !counts.machine.is_pinned(), "as it was set");
    assert_eq!(counts.machine.snapshot(counts.now).probes, 0);
}

#[test]
fn successes_are_counted_elsewhere_where_none_can_open_the_circuit() {
    let mut circuit = Circuit::new(|_| {});
    let generation = circuit.machine.generation();
    let fast = circuit.machine.fast().unwrap();
    assert_eq!((fast.generation, fast.until, fast.slot), (generation, Some(circuit.now + 6 * S), CountedIn(0)));
    circuit.calls(3, BAD);
    circuit.calls(1, GOOD);
    circuit.calls(1, BAD);
    assert!(circuit.machine.fast().is_some(), "four of ten are less than half");
    circuit.calls(1, BAD);
    assert!(circuit.machine.fast().is_none(), "a success more may be the tenth call, of which half failed");
    circuit.machine.absorb(0);
    assert_eq!(circuit.seen(), (6, 5));
    circuit.machine.absorb(5);
    assert_eq!(circuit.seen(), (11, 5));
    assert!(circuit.machine.fast().is_some());
    circuit.machine.disable(circuit.now);
    let fast = circuit.machine.fast().unwrap();
    assert_eq!((fast.generation, fast.until, fast.slot), (circuit.machine.generation(), None, CountedIn::NONE));
    assert_ne!(circuit.machine.generation(), generation);
    circuit.machine.isolate(circuit.now);
    assert!(circuit.machine.fast().is_none());
}

#[test]
fn successes_that_were_counted_elsewhere_end_a_run_and_the_probation() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(4, BAD);
    circuit.machine.absorb(1);
    circuit.calls(4, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let mut circuit = Circuit::open();
    circuit.pass(5 * S).calls(1, GOOD);
    circuit.machine.absorb(1);
    circuit.calls(1, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed, "a success ended the probation");
}

#[test]
fn what_was_heard_before_counting_began_is_no_sign_of_life() {
    let mut circuit = Circuit::new(|_| {});
    circuit.pass(60 * S);
    circuit.machine.close_by_hand(circuit.now);
    circuit.pass(5 * S);
    circuit.machine.note_sign_of_life(circuit.now - 6 * S);
    circuit.calls(5, BAD);
    assert_eq!(circuit.state(), CircuitState::Open);
    let mut circuit = Circuit::new(|_| {});
    circuit.pass(5 * S);
    circuit.machine.note_sign_of_life(circuit.now);
    circuit.machine.note_sign_of_life(circuit.now - S);
    circuit.calls(5, BAD);
    assert_eq!(circuit.state(), CircuitState::Closed, "the latest sign counts");
}

#[test]
fn a_probe_that_is_given_back_frees_its_place_in_its_own_wave_only() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    assert!(matches!(circuit.admit(), CircuitDecision::Refused { .. }));
    circuit.machine.give_back(CallGrant { generation: probe.generation + 1, ..probe });
    assert!(matches!(circuit.admit(), CircuitDecision::Refused { .. }), "of another generation");
    circuit.machine.give_back(CallGrant { role: CallRole::Call, ..probe });
    assert!(matches!(circuit.admit(), CircuitDecision::Refused { .. }), "no probe");
    circuit.machine.give_back(probe);
    circuit.grant();
    assert!(CallGrant::call(7).is_call() && !probe.is_call());
    assert_eq!(CallGrant::call(7).generation, 7);
}

#[test]
fn a_probe_whose_caller_leaves_after_a_long_wait_opens_again() {
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    let gone = circuit.machine.cancel(probe, Caller::Anonymous, false, 0, circuit.now);
    assert!(matches!(gone, Some(BreakerEvent::Changed(change)) if change.reason == CircuitReason::ProbeFailed));
    assert_eq!(circuit.open_for(), Some(10 * S), "it got no answer");
    assert_eq!(circuit.machine.cancel(probe, Caller::Anonymous, false, 0, circuit.now), None);
    let mut circuit = Circuit::open();
    let probe = circuit.pass(5 * S).grant();
    assert_eq!(
        circuit.machine.cancel(CallGrant::call(probe.generation), Caller::Anonymous, false, 0, circuit.now),
        None
    );
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[test]
fn new_settings_keep_what_was_counted_unless_the_window_is_another() {
    let mut circuit = Circuit::new(|_| {});
    circuit.calls(2, BAD);
    let generation = circuit.machine.generation();
    let settings =
        BreakerSettings { jitter: 0.0, min_calls: some(10), failure_ratio: 0.5, ..BreakerSettings::default() };
    assert_eq!(circuit.machine.configure(BreakerSettings { open: 9 * S, ..settings }, circuit.now), None);
    assert_eq!((circuit.seen(), circuit.machine.generation()), ((2, 2), generation));
    let window = CircuitWindow::Calls(NonZeroU16::MIN);
    assert_eq!(circuit.machine.configure(BreakerSettings { window, ..settings }, circuit.now), None);
    assert_eq!(circuit.seen(), (0, 0));
    assert_ne!(circuit.machine.generation(), generation);
    let counts = BreakerSettings { window, metrics_only: true, ..settings };
    assert!(circuit.machine.configure(counts.clone(), circuit.now).is_some());
    assert_eq!(circuit.state(), CircuitState::MetricsOnly);
    assert_eq!(circuit.machine.configure(counts, circuit.now), None, "it does so already");
    assert!(circuit.machine.configure(BreakerSettings { window, ..settings }, circuit.now).is_some());
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn jitter_lengthens_the_open_time_and_at_the_maximum_shortens_it() {
    let settings = BreakerSettings { jitter: 0.5, open: 4 * S, open_max: 16 * S, ..BreakerSettings::default() };
    let mut rng = fastrand::Rng::with_seed(7);
    let mut range = |unanswered| {
        let times: Vec<Duration> = (0..500).map(|_| settings.open_time(unanswered, &mut rng)).collect();
        let (least, most) = (times.iter().min().copied().unwrap(), times.iter().max().copied().unwrap());
        (least.as_millis() / 250, most.as_millis().div_ceil(250))
    };
    assert_eq!(range(0), (16, 24), "4 s to 6 s");
    assert_eq!(range(1), (32, 48), "8 s to 12 s");
    assert_eq!(range(2), (42, 64), "two thirds of 16 s to 16 s");
    assert_eq!(range(40), (42, 64));
    let none = BreakerSettings { jitter: 0.0, ..settings };
    assert_eq!(none.open_time(1, &mut rng), 8 * S);
    assert_eq!(none.successes(), 1);
}
