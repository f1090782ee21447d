//! A slow and obvious model of the machine: it keeps a list of all results with their times, and computes every decision
//! from that list.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::report::{CircuitReason, CircuitState};
use super::settings::BreakerSettings;
use super::{Breaker, BreakerEvent, CallGrant, CallResult, CallRole, Caller, CircuitDecision, Counted};
use crate::policy::verdict::Health;
use crate::policy::window::{CircuitWindow, CountedIn};

struct Model {
    settings: BreakerSettings,
    state: Mode,
    generation: u32,
    /// When counting began.
    since: Instant,
    calls: Vec<Call>,
    log: Vec<Said>,
    signs_of_life: Vec<Instant>,
    cancelled: Vec<(Caller, Instant)>,
    closed_at: Option<Instant>,
    asked: Vec<Instant>,
    unanswered: u32,
}

/// What the window counts.
#[derive(Clone, Copy)]
struct Call {
    at: Instant,
    result: CallResult,
    taken_back: bool,
}

/// The results from which failures in a row are computed.
#[derive(Clone, Copy)]
enum Said {
    Success,
    Failure(Instant),
    GaveUp(Caller, Instant),
    TakenBack,
}

#[derive(Clone)]
enum Mode {
    Closed,
    Open { until: Instant, probed_from: Instant, seen: [u64; 5] },
    HalfOpen { probes: Vec<Probe>, given: u32, waves: Vec<Instant>, ended: Vec<CallResult> },
    Isolated { seen: [u64; 5] },
    MetricsOnly { reported: bool },
    Disabled,
}

#[derive(Clone)]
struct Probe {
    id: u32,
    wave: usize,
    began: Instant,
}

/// The compared parts of an event: the states before and after, the reason and the counts.
type EventView = (CircuitState, Option<CircuitState>, CircuitReason, [u64; 5]);

const S: Duration = Duration::from_secs(1);

impl Model {
    fn new(settings: BreakerSettings, now: Instant) -> Self {
        let state = if settings.metrics_only { Mode::MetricsOnly { reported: false } } else { Mode::Closed };
        Self {
            settings,
            state,
            generation: 1,
            since: now,
            calls: vec![],
            log: vec![],
            signs_of_life: vec![],
            cancelled: vec![],
            closed_at: None,
            asked: vec![],
            unanswered: 0,
        }
    }

    fn name(&self) -> CircuitState {
        match self.state {
            Mode::Closed => CircuitState::Closed,
            Mode::Open { .. } => CircuitState::Open,
            Mode::HalfOpen { .. } => CircuitState::HalfOpen,
            Mode::Isolated { .. } => CircuitState::Isolated,
            Mode::MetricsOnly { .. } => CircuitState::MetricsOnly,
            Mode::Disabled => CircuitState::Disabled,
        }
    }

    fn is_recent(&self, at: Instant, now: Instant) -> bool {
        let CircuitWindow::Time(span) = self.settings.window else { return true };
        let bucket = |at: Instant| (at - self.since).as_nanos() / (span / 10).as_nanos();
        bucket(now) - bucket(at) < 10
    }

    fn in_window(&self, now: Instant) -> Vec<CallResult> {
        let stand = self.calls.iter().filter(|call| !call.taken_back && self.is_recent(call.at, now));
        let stand: Vec<_> = stand.map(|call| call.result).collect();
        match self.settings.window {
            CircuitWindow::Time(_) => stand,
            CircuitWindow::Calls(size) => stand[stand.len().saturating_sub(size.get().into())..].to_vec(),
        }
    }

    /// The failures in a row: failed calls, the callers of cancelled calls, and the time of the first.
    fn run(&self) -> (u64, Vec<Caller>, Option<Instant>) {
        let (mut run, mut before, mut successes) = ((0, vec![], None), (0, vec![], None), 0_u32);
        for said in &self.log {
            match said {
                Said::Success => {
                    if successes == 0 {
                        before = run;
                    }
                    (run, successes) = ((0, vec![], None), successes + 1);
                }
                Said::TakenBack => {
                    if successes == 1 {
                        run = before.clone();
                    }
                    successes = successes.saturating_sub(1);
                }
                Said::Failure(at) => {
                    (run.0, run.2, successes) = (run.0 + 1, run.2.or(Some(*at)), 0);
                }
                Said::GaveUp(caller, at) => {
                    run.1.push(*caller);
                    (run.2, successes) = (run.2.or(Some(*at)), 0);
                }
            }
        }
        run
    }

    fn seen(&self, now: Instant) -> [u64; 5] {
        let run = || {
            let (failed, cancelled, _) = self.run();
            failed + cancelled.len() as u64
        };
        match &self.state {
            Mode::Closed | Mode::MetricsOnly { .. } => stats(&self.in_window(now), run()),
            Mode::HalfOpen { ended, .. } => stats(ended, 0),
            Mode::Open { seen, .. } | Mode::Isolated { seen } => *seen,
            Mode::Disabled => [0; 5],
        }
    }

    fn reached(&self, waiting: u64, now: Instant) -> Option<CircuitReason> {
        let BreakerSettings { min_calls, failure_ratio, slow_ratio, consecutive, window, .. } = &self.settings;
        let [calls, failures, _, slow, _] = stats(&self.in_window(now), 0);
        let min = match window {
            CircuitWindow::Calls(size) => u64::from(min_calls.get()).min(size.get().into()),
            CircuitWindow::Time(_) => min_calls.get().into(),
        };
        let (failed, cancelled, since) = self.run();
        let last_sign = self.signs_of_life.iter().copied().max();
        let agree =
            cancelled.iter().any(|caller| *caller != cancelled[0]) || now - last_sign.unwrap_or(self.since) >= 60 * S;
        let run = failed + if agree { cancelled.len() as u64 } else { 0 };
        let limit = consecutive.map_or(u64::from(u32::MAX), |limit| limit.get().into());
        let silent = last_sign.is_none_or(|last_sign| now - last_sign >= 5 * S);
        let beside_streams = run >= 3 * limit && since.is_some_and(|since| now - since >= 5 * S);
        let succeeded = self.log.iter().any(|said| matches!(said, Said::Success));
        let probation = self.closed_at.is_some_and(|at| now - at < 10 * S) && !succeeded;
        if run > 4 * waiting && probation {
            Some(CircuitReason::FailedAfterClosing)
        } else if run > 4 * waiting && run >= limit && (silent || beside_streams) {
            Some(CircuitReason::ConsecutiveFailures)
        } else if calls >= min && failures as f64 / (calls + waiting) as f64 >= *failure_ratio {
            Some(CircuitReason::FailureRatio)
        } else if calls >= min && slow_ratio.is_some_and(|ratio| slow as f64 / (calls + waiting) as f64 >= ratio) {
            Some(CircuitReason::SlowRatio)
        } else {
            None
        }
    }

    fn go(&mut self, to: Mode, reason: CircuitReason, now: Instant) -> Option<EventView> {
        let (from, seen) = (self.name(), self.seen(now));
        self.state = to;
        self.generation += 1;
        Some((from, Some(self.name()), reason, seen))
    }

    fn open_time(&self) -> Duration {
        (self.settings.open * 2_u32.pow(self.unanswered.min(20))).min(self.settings.open_max)
    }

    fn open(&mut self, reason: CircuitReason, since: Instant, now: Instant) -> Option<EventView> {
        let asked = self.asked.iter().copied().max().unwrap_or(now);
        let until = asked.max(since + self.open_time());
        let seen = self.seen(now);
        self.go(Mode::Open { until, probed_from: asked, seen }, reason, now)
    }

    fn probe_failed(&mut self, answered: bool, now: Instant) -> Option<EventView> {
        let Mode::HalfOpen { waves, .. } = &self.state else { unreachable!() };
        let began = *waves.last().unwrap();
        self.unanswered += u32::from(!answered);
        self.open(CircuitReason::ProbeFailed, began, now)
    }

    fn close(&mut self, reason: CircuitReason, now: Instant) -> Option<EventView> {
        let to = if self.settings.metrics_only { Mode::MetricsOnly { reported: false } } else { Mode::Closed };
        let reported = self.go(to, reason, now);
        self.forget(now);
        self.signs_of_life.push(now);
        self.closed_at = Some(now);
        reported
    }

    fn forget(&mut self, now: Instant) {
        (self.since, self.unanswered, self.closed_at) = (now, 0, None);
        self.calls.clear();
        self.log.clear();
        self.signs_of_life.clear();
        self.asked.clear();
    }

    fn admit(&mut self, now: Instant) -> (CircuitDecision, Option<EventView>) {
        let mut reported = None;
        if let Mode::Open { until, .. } = self.state {
            if now < until {
                return (CircuitDecision::Refused { retry_after: Some(until - now) }, None);
            }
            let half_open = Mode::HalfOpen { probes: vec![], given: 0, waves: vec![now], ended: vec![] };
            reported = self.go(half_open, CircuitReason::OpenTimeOver, now);
        }
        let (generation, open_time, limit) = (self.generation, self.open_time(), self.settings.probe_timeout);
        let Mode::HalfOpen { probes, given, waves, .. } = &mut self.state else {
            let admission = match self.state {
                Mode::Isolated { .. } => CircuitDecision::Refused { retry_after: None },
                _ => CircuitDecision::Granted(CallGrant { generation, role: CallRole::Call }),
            };
            return (admission, reported);
        };
        probes.retain(|probe| now - probe.began < limit);
        let in_wave = probes.iter().filter(|probe| probe.wave == waves.len()).count();
        if in_wave >= self.settings.probes.get() as usize {
            let next = *waves.last().unwrap() + open_time;
            if now < next {
                return (CircuitDecision::Refused { retry_after: Some(next - now) }, reported);
            }
            waves.push(now);
            self.unanswered += 1;
        }
        *given += 1;
        probes.push(Probe { id: *given, wave: waves.len(), began: now });
        (CircuitDecision::Granted(CallGrant { generation, role: CallRole::Probe { id: *given } }), reported)
    }

    /// Removes a probe. Returns `None` if there is none, and false if probes that began later are in flight and decide.
    fn remove(&mut self, grant: CallGrant) -> Option<bool> {
        let Mode::HalfOpen { probes, waves, .. } = &mut self.state else { return None };
        let place = probes.iter().position(|probe| grant.role == CallRole::Probe { id: probe.id })?;
        let probe = probes.remove(place);
        Some(probe.wave == waves.len() || probes.iter().all(|other| other.wave != waves.len()))
    }

    fn count(&mut self, result: CallResult, now: Instant) {
        self.calls.push(Call { at: now, result, taken_back: false });
    }

    fn decide(&mut self, waiting: u64, now: Instant) -> Option<EventView> {
        let reached = self.reached(waiting, now);
        if let Mode::MetricsOnly { reported } = self.state {
            self.state = Mode::MetricsOnly { reported: reached.is_some() };
            return reached.filter(|_| !reported).map(|reason| (self.name(), None, reason, self.seen(now)));
        }
        reached.and_then(|reason| self.open(reason, now, now))
    }

    /// Returns the index at which a success was counted, and the event.
    fn settle(
        &mut self,
        grant: CallGrant,
        result: CallResult,
        waiting: u64,
        now: Instant,
    ) -> (Option<usize>, Option<EventView>) {
        if grant.generation != self.generation {
            return (None, None);
        }
        let mut decides = true;
        if matches!(grant.role, CallRole::Probe { .. }) {
            match self.remove(grant) {
                Some(decisive) => decides = decisive,
                None => return (None, None),
            }
        }
        if result.health == Health::Ignored {
            return (None, None);
        }
        self.note_retry_after(result, now);
        let asked = self.asked.iter().copied().max();
        let bad = is_bad(result);
        let needed = self.settings.successes.unwrap_or(self.settings.probes).get();
        match &mut self.state {
            Mode::Closed | Mode::MetricsOnly { .. } => {
                self.count(result, now);
                match result.health {
                    Health::Success => {
                        self.log.push(Said::Success);
                        self.signs_of_life.push(now);
                    }
                    Health::Failure => self.log.push(Said::Failure(now)),
                    _ => {}
                }
                let place = self.calls.len() - 1;
                (Some(place), self.decide(waiting, now))
            }
            Mode::HalfOpen { ended, .. } => {
                ended.push(result);
                let succeeded = ended.iter().filter(|result| !is_bad(**result)).count();
                let reported = match bad {
                    true if decides => self.probe_failed(result.answered, now),
                    false if succeeded >= needed as usize => self.close(CircuitReason::ProbesSucceeded, now),
                    _ => None,
                };
                (None, reported)
            }
            Mode::Open { until, probed_from, .. } if grant.role == CallRole::Health => {
                *until = asked.map_or(*until, |at| at.max(*until));
                *probed_from = asked.map_or(*probed_from, |at| at.max(*probed_from));
                let reported = if bad { None } else { self.close(CircuitReason::HealthProbeSucceeded, now) };
                (None, reported)
            }
            _ => (None, None),
        }
    }

    fn note_retry_after(&mut self, result: CallResult, now: Instant) {
        if let (true, Some(after)) = (result.health != Health::Success, result.retry_after) {
            self.asked.push(now + after.min(self.settings.open_max));
        }
    }

    fn finish(
        &mut self,
        place: Option<usize>,
        counted: Counted,
        result: CallResult,
        waiting: u64,
        now: Instant,
    ) -> Option<EventView> {
        let same = result.health == Health::Success && result.slow == counted.slow;
        if counted.generation != self.generation || result.health == Health::Ignored || same {
            return None;
        }
        match &mut self.state {
            Mode::Closed | Mode::MetricsOnly { .. } => {
                self.note_retry_after(result, now);
                match (place, self.settings.window) {
                    // A window of the last N calls holds each call once.
                    (Some(place), CircuitWindow::Calls(size)) if self.calls.len() - place <= size.get().into() => {
                        self.calls[place].result = result;
                    }
                    (place, _) => {
                        if let Some(place) = place.filter(|place| self.is_recent(self.calls[*place].at, now)) {
                            let by_time = matches!(self.settings.window, CircuitWindow::Time(_));
                            self.calls[place].taken_back = by_time;
                        }
                        self.count(result, now);
                    }
                }
                if result.health != Health::Success {
                    self.log.push(Said::TakenBack);
                }
                if result.health == Health::Failure {
                    self.log.push(Said::Failure(now));
                }
                self.decide(waiting, now)
            }
            Mode::HalfOpen { ended, .. } if is_bad(result) => {
                ended.push(result);
                self.note_retry_after(result, now);
                self.probe_failed(result.answered, now)
            }
            _ => None,
        }
    }

    fn cancel(
        &mut self,
        grant: CallGrant,
        caller: Caller,
        slow: bool,
        waiting: u64,
        now: Instant,
    ) -> Option<EventView> {
        if grant.generation != self.generation {
            return None;
        }
        let failed = CallResult { health: Health::Failure, slow, answered: false, retry_after: None };
        match &mut self.state {
            Mode::Closed | Mode::MetricsOnly { .. } => {
                let lately = |(other, at): &(Caller, Instant)| *other == caller && now - *at < 10 * S;
                if self.cancelled.iter().any(lately) {
                    return None;
                }
                self.cancelled.push((caller, now));
                self.count(failed, now);
                self.log.push(Said::GaveUp(caller, now));
                self.decide(waiting, now)
            }
            Mode::HalfOpen { .. } => {
                let decides = self.remove(grant)?;
                let Mode::HalfOpen { ended, .. } = &mut self.state else { unreachable!() };
                ended.push(failed);
                if decides { self.probe_failed(false, now) } else { None }
            }
            _ => None,
        }
    }

    fn by_hand(&mut self, control: Control, now: Instant) -> Option<EventView> {
        let (from, seen) = (self.name(), self.seen(now));
        let (to, same) = match control {
            Control::Isolate => (Mode::Isolated { seen }, from == CircuitState::Isolated),
            Control::OpenFor(time) => {
                let until = now + time;
                (Mode::Open { until, probed_from: until, seen }, from == CircuitState::Open)
            }
            Control::Close => (Mode::Closed, from == CircuitState::Closed),
            Control::OnlyCount => (Mode::MetricsOnly { reported: false }, from == CircuitState::MetricsOnly),
            Control::Disable => (Mode::Disabled, from == CircuitState::Disabled),
        };
        let reported = match control {
            Control::OpenFor(_) if same => {
                self.state = to;
                self.generation += 1;
                None
            }
            _ if same => None,
            _ => self.go(to, CircuitReason::Manual, now),
        };
        if matches!(control, Control::Close) || (matches!(control, Control::OnlyCount) && !same) {
            self.forget(now);
        }
        reported
    }
}

fn is_bad(result: CallResult) -> bool {
    result.health != Health::Success || result.slow
}

fn stats(ended: &[CallResult], run: u64) -> [u64; 5] {
    let count = |is: fn(&CallResult) -> bool| ended.iter().filter(|ended| is(ended)).count() as u64;
    let failures = count(|ended| ended.health != Health::Success);
    [ended.len() as u64, failures, count(|ended| ended.health == Health::Throttled), count(|ended| ended.slow), run]
}

fn view(event: BreakerEvent) -> EventView {
    let (from, to, reason, seen) = match event {
        BreakerEvent::Changed(change) => (change.from, Some(change.to), change.reason, change.stats),
        BreakerEvent::Reached { reason, stats } => (CircuitState::MetricsOnly, None, reason, stats),
    };
    (from, to, reason, [seen.calls, seen.failures, seen.throttled, seen.slow, seen.consecutive.into()])
}

#[derive(Clone, Copy, Debug)]
enum Control {
    Isolate,
    OpenFor(Duration),
    Close,
    OnlyCount,
    Disable,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(Duration),
    Admit,
    AdmitHealth,
    /// The index of a call among those in flight, its result, and the number of other waiting calls.
    Settle(usize, CallResult, u64),
    Finish(usize, CallResult, u64),
    GiveUp(usize, Caller, bool, u64),
    GiveBack(usize),
    SignOfLife,
    ByHand(Control),
}

fn result() -> impl Strategy<Value = CallResult> {
    let health = prop_oneof![
        5 => Just(Health::Success),
        6 => Just(Health::Failure),
        2 => Just(Health::Throttled),
        1 => Just(Health::Ignored),
    ];
    let retry_after = prop_oneof![8 => Just(None), 1 => (0_u64..90).prop_map(|s| Some(Duration::from_secs(s)))];
    (health, prop::bool::weighted(0.2), any::<bool>(), retry_after)
        .prop_map(|(health, slow, answered, retry_after)| CallResult { health, slow, answered, retry_after })
}

fn caller() -> impl Strategy<Value = Caller> {
    prop_oneof![1 => Just(Caller::Anonymous), 6 => (0_u64..3).prop_map(Caller::Tenant)]
}

fn step() -> impl Strategy<Value = Step> {
    let control = prop_oneof![
        1 => Just(Control::Isolate),
        1 => (0_u64..20).prop_map(|s| Control::OpenFor(Duration::from_secs(s))),
        2 => Just(Control::Close),
        1 => Just(Control::OnlyCount),
        1 => Just(Control::Disable),
    ];
    // Half seconds, so that times equal every limit exactly.
    const HALF: Duration = Duration::from_millis(500);
    let waiting = || prop_oneof![4 => Just(0_u64), 1 => 1_u64..4];
    prop_oneof![
        4 => (0_u32..4).prop_map(|n| Step::Pass(n * HALF)),
        2 => (0_u32..180).prop_map(|n| Step::Pass(n * HALF)),
        12 => Just(Step::Admit),
        1 => Just(Step::AdmitHealth),
        12 => (0_usize..8, result(), waiting()).prop_map(|(which, result, waiting)| Step::Settle(which, result, waiting)),
        6 => (0_usize..8, result(), waiting()).prop_map(|(which, result, waiting)| Step::Finish(which, result, waiting)),
        3 => (0_usize..8, caller(), any::<bool>(), waiting())
            .prop_map(|(which, caller, slow, waiting)| Step::GiveUp(which, caller, slow, waiting)),
        1 => (0_usize..8).prop_map(Step::GiveBack),
        1 => Just(Step::SignOfLife),
        1 => control.prop_map(Step::ByHand),
    ]
}

fn settings() -> impl Strategy<Value = BreakerSettings> {
    let window = prop_oneof![
        (1_u64..12).prop_map(|n| CircuitWindow::Time(Duration::from_secs(n * 5))),
        (1_u16..12).prop_map(|n| CircuitWindow::Calls(NonZeroU16::new(n).unwrap())),
    ];
    let nonzero = |range: std::ops::Range<u32>| range.prop_map(|n| NonZeroU32::new(n).unwrap());
    let ratios = (1_u32..=10, 1_u32..=10, any::<bool>());
    let half_open = (nonzero(1..4), prop::option::of(nonzero(1..4)), 1_u64..12);
    (window, nonzero(1..15), ratios, prop::option::of(nonzero(1..6)), half_open, prop::bool::weighted(0.1)).prop_map(
        |(window, min_calls, ratios, consecutive, (probes, successes, timeout), metrics_only)| BreakerSettings {
            window,
            min_calls,
            failure_ratio: f64::from(ratios.0) / 10.0,
            slow_ratio: ratios.2.then_some(f64::from(ratios.1) / 10.0),
            consecutive,
            probes,
            successes,
            probe_timeout: Duration::from_secs(timeout),
            open: Duration::from_secs(2),
            open_max: Duration::from_secs(30),
            jitter: 0.0,
            metrics_only,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_list_says(
        settings in settings(),
        half_open: bool,
        mut steps in prop::collection::vec(step(), 1..120),
    ) {
        if half_open {
            // The random steps alone rarely stay in this state.
            steps.insert(0, Step::ByHand(Control::OpenFor(Duration::ZERO)));
        }
        let mut now = Instant::now();
        let mut machine = Breaker::new(settings.clone(), 0, now);
        let mut model = Model::new(settings, now);
        let mut out: Vec<CallGrant> = vec![];
        let mut counted: Vec<(Counted, Option<usize>)> = vec![];
        for step in steps {
            let (event, expected) = match step {
                Step::Pass(time) => {
                    now += time;
                    (None, None)
                }
                Step::Admit => {
                    let (admission, event) = machine.admit(now);
                    let (expected, reported) = model.admit(now);
                    prop_assert_eq!(admission, expected);
                    if let CircuitDecision::Granted(grant) = admission {
                        out.push(grant);
                    }
                    (event, reported)
                }
                Step::AdmitHealth => {
                    let grant = machine.admit_health(now);
                    let may = matches!(model.state, Mode::Open { probed_from, .. } if now >= probed_from);
                    prop_assert_eq!(grant.is_some(), may);
                    out.extend(grant);
                    (None, None)
                }
                Step::Settle(which, result, waiting) if which < out.len() => {
                    let grant = out.remove(which);
                    let (kept, event) = machine.settle(grant, result, waiting, now);
                    let (place, reported) = model.settle(grant, result, waiting, now);
                    prop_assert_eq!(kept.slot == CountedIn::NONE, place.is_none());
                    if result.health == Health::Success {
                        counted.push((kept, place));
                    }
                    (event, reported)
                }
                Step::Finish(which, result, waiting) if which < counted.len() => {
                    let (kept, place) = counted.remove(which);
                    // Its index belongs to a list that was cleared.
                    let place = place.filter(|_| kept.generation == model.generation);
                    let event = machine.finish(kept, result, waiting, now);
                    (event, model.finish(place, kept, result, waiting, now))
                }
                Step::GiveUp(which, caller, slow, waiting) if which < out.len() => {
                    let grant = out.remove(which);
                    let event = machine.cancel(grant, caller, slow, waiting, now);
                    (event, model.cancel(grant, caller, slow, waiting, now))
                }
                Step::GiveBack(which) if which < out.len() => {
                    let grant = out.remove(which);
                    machine.give_back(grant);
                    if grant.generation == model.generation {
                        model.remove(grant);
                    }
                    (None, None)
                }
                Step::SignOfLife => {
                    machine.note_sign_of_life(now);
                    model.signs_of_life.push(now);
                    (None, None)
                }
                Step::ByHand(control) => {
                    let event = match control {
                        Control::Isolate => machine.isolate(now),
                        Control::OpenFor(time) => machine.open_by_hand(time, now),
                        Control::Close => {
                            // Closing by hand clears the counts in the same generation.
                            counted.retain(|(kept, _)| kept.generation != model.generation);
                            machine.close_by_hand(now)
                        }
                        Control::OnlyCount => machine.only_count(now),
                        Control::Disable => machine.disable(now),
                    };
                    (event, model.by_hand(control, now))
                }
                _ => continue,
            };
            prop_assert_eq!(event.map(view), expected);
            prop_assert_eq!(machine.state(), model.name());
            prop_assert_eq!(machine.generation(), model.generation);
            let snapshot = machine.snapshot(now);
            let seen = snapshot.stats;
            let seen = [seen.calls, seen.failures, seen.throttled, seen.slow, seen.consecutive.into()];
            prop_assert_eq!(seen, model.seen(now));
            if let Mode::Open { until, .. } = model.state {
                prop_assert_eq!(snapshot.open_for, Some(until.saturating_duration_since(now)));
            }
        }
    }

    /// Successes that are counted elsewhere, and added late, change no decision.
    #[test]
    fn successes_that_are_brought_in_late_change_nothing(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut now = Instant::now();
        let mut exact = Breaker::new(settings.clone(), 0, now);
        let mut lazy = Breaker::new(settings.clone(), 0, now);
        // In a window of the last N calls, a late result does not know its index.
        let by_time = matches!(settings.window, CircuitWindow::Time(_));
        let mut late = 0;
        let mut out: Vec<CallGrant> = vec![];
        let mut counted: Vec<(Counted, Counted)> = vec![];
        for step in steps {
            if let Step::Pass(time) = step {
                now += time;
                continue;
            }
            if let Step::Settle(which, result, waiting) = step {
                let grant = out.get(which).copied();
                let fast = lazy.fast().filter(|fast| {
                    grant.is_some_and(|grant| grant.generation == fast.generation && grant.role == CallRole::Call)
                        && result == CallResult::SUCCESS
                        && fast.until.is_none_or(|until| now < until)
                });
                if let Some(fast) = fast {
                    let (kept, event) = exact.settle(out.remove(which), result, waiting, now);
                    prop_assert_eq!(event, None);
                    counted.push((kept, Counted { generation: fast.generation, slot: fast.slot, slow: false }));
                    lazy.note_sign_of_life(now);
                    late += 1;
                    continue;
                }
            }
            lazy.absorb(late);
            late = 0;
            let mut both = |step: &mut dyn FnMut(&mut Breaker) -> Option<BreakerEvent>| (step(&mut exact), step(&mut lazy));
            let (a, b) = match step {
                Step::Admit => {
                    let mut granted = vec![];
                    let events = both(&mut |machine| {
                        let (admission, event) = machine.admit(now);
                        granted.push(admission);
                        event
                    });
                    prop_assert_eq!(granted[0], granted[1]);
                    if let CircuitDecision::Granted(grant) = granted[0] {
                        out.push(grant);
                    }
                    events
                }
                Step::Settle(which, result, waiting) if which < out.len() => {
                    let grant = out.remove(which);
                    let mut kept = vec![];
                    let events = both(&mut |machine| {
                        let (counted, event) = machine.settle(grant, result, waiting, now);
                        kept.push(counted);
                        event
                    });
                    if result.health == Health::Success {
                        counted.push((kept[0], kept[1]));
                    }
                    events
                }
                Step::Finish(which, result, waiting) if which < counted.len() && by_time => {
                    let (one, other) = counted.remove(which);
                    (exact.finish(one, result, waiting, now), lazy.finish(other, result, waiting, now))
                }
                Step::GiveUp(which, caller, slow, waiting) if which < out.len() => {
                    let grant = out.remove(which);
                    both(&mut |machine| machine.cancel(grant, caller, slow, waiting, now))
                }
                Step::ByHand(Control::Close) => both(&mut |machine| machine.close_by_hand(now)),
                Step::ByHand(Control::Disable) => both(&mut |machine| machine.disable(now)),
                _ => continue,
            };
            prop_assert_eq!(a, b);
            prop_assert_eq!(exact.snapshot(now), lazy.snapshot(now));
        }
    }

    #[test]
    fn open_times_double_up_to_the_maximum(open in 1_u64..100, factor in 1_u64..100, jitter in 0.0..2.0, unanswered: u32) {
        let settings = BreakerSettings {
            open: Duration::from_secs(open),
            open_max: Duration::from_secs(open * factor),
            jitter,
            ..BreakerSettings::default()
        };
        let time = settings.open_time(unanswered, &mut fastrand::Rng::with_seed(u64::from(unanswered) ^ open));
        prop_assert!(time >= settings.open && time <= settings.open_max);
        let nominal = 1_u32.checked_shl(unanswered).map_or(Duration::MAX, |factor| settings.open.saturating_mul(factor));
        // A tolerance of a nanosecond for floating point.
        let above = nominal.as_secs_f64() * (1.0 + jitter) + 1e-9;
        prop_assert!(time.as_secs_f64() <= above);
        if nominal.as_secs_f64() * (1.0 + jitter) < settings.open_max.as_secs_f64() {
            prop_assert!(time.as_secs_f64() >= nominal.as_secs_f64() - 1e-9);
        }
    }

    /// A clock that goes backwards between threads, and numbers at the end of their range.
    #[test]
    fn nothing_panics(settings in settings(), steps in prop::collection::vec((step(), any::<bool>(), any::<bool>()), 1..80)) {
        let start = Instant::now() + Duration::from_secs(86_400);
        let settings = BreakerSettings { open_max: Duration::MAX, jitter: 1.0, ..settings };
        let mut machine = Breaker::new(settings, 7, start);
        let mut out: Vec<CallGrant> = vec![];
        let mut counted: Vec<Counted> = vec![];
        let mut now = start;
        for (step, backwards, huge) in steps {
            let many = |waiting| if huge { u64::MAX } else { waiting };
            match step {
                Step::Pass(time) => {
                    now = if backwards { now - time.min(now - (start - Duration::from_secs(80_000))) } else { now + time };
                }
                Step::Admit => {
                    if let CircuitDecision::Granted(grant) = machine.admit(now).0 {
                        out.push(grant);
                    }
                }
                Step::Settle(which, mut result, waiting) if which < out.len() => {
                    if huge {
                        result.retry_after = Some(Duration::MAX);
                    }
                    counted.push(machine.settle(out.remove(which), result, many(waiting), now).0);
                }
                Step::Finish(which, result, waiting) if which < counted.len() => {
                    machine.finish(counted.remove(which), result, many(waiting), now);
                }
                Step::GiveUp(which, caller, slow, waiting) if which < out.len() => {
                    machine.cancel(out.remove(which), caller, slow, many(waiting), now);
                }
                Step::ByHand(Control::OpenFor(_)) if huge => {
                    machine.open_by_hand(Duration::MAX, now);
                    machine.snapshot(now);
                    machine.close_by_hand(now);
                }
                _ => {}
            }
            machine.absorb(if huge { u64::MAX } else { 1 });
            machine.note_sign_of_life(now);
            machine.snapshot(now);
        }
    }
}
