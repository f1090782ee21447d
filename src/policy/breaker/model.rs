//! The machine again, slow and obvious: a list of what happened and when, from which every answer is worked out anew.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::report::{CircuitReason, CircuitState};
use super::settings::Settings;
use super::{Admission, Breaker, BreakerEvent, CallResult, Grant, Role};
use crate::policy::verdict::Health;
use crate::policy::window::CircuitWindow;

struct Model {
    settings: Settings,
    state: Mode,
    generation: u32,
    /// When counting began.
    since: Instant,
    calls: Vec<(Instant, CallResult)>,
    asked: Vec<Instant>,
    trips: u32,
}

#[derive(Clone)]
enum Mode {
    Closed,
    Open { until: Instant, probed_from: Instant, healthy: u32, seen: [u64; 5] },
    HalfOpen { probes: Vec<Probe>, given: u32, ended: Vec<CallResult> },
    Isolated { seen: [u64; 5] },
    MetricsOnly { told: bool },
    Disabled,
}

/// A probe, and every time that the turn passed between the upstream (true) and its consumer.
#[derive(Clone)]
struct Probe {
    id: u32,
    turns: Vec<(Instant, bool)>,
}

/// What there is to compare of a notice: from, to, why, and what had been seen.
type Told = (CircuitState, Option<CircuitState>, CircuitReason, [u64; 5]);

impl Probe {
    fn is_with_upstream(&self) -> bool {
        self.turns.last().unwrap().1
    }

    fn waited_for_upstream(&self, now: Instant) -> Duration {
        let ends = self.turns.iter().skip(1).map(|turn| turn.0).chain([now]);
        self.turns.iter().zip(ends).filter(|(turn, _)| turn.1).map(|(turn, end)| end - turn.0).sum()
    }

    fn rested(&self, now: Instant) -> Duration {
        now - self.turns.last().unwrap().0
    }

    fn turn(&mut self, now: Instant, upstream: bool) {
        if self.is_with_upstream() != upstream {
            self.turns.push((now, upstream));
        }
    }
}

impl Model {
    fn new(settings: Settings, now: Instant) -> Self {
        let state = if settings.metrics_only { Mode::MetricsOnly { told: false } } else { Mode::Closed };
        Self { settings, state, generation: 1, since: now, calls: vec![], asked: vec![], trips: 0 }
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

    fn in_window(&self, now: Instant) -> Vec<CallResult> {
        match self.settings.window {
            CircuitWindow::Time(span) => {
                let bucket = |at: Instant| (at - self.since).as_nanos() / (span / 10).as_nanos();
                let recent = |at: Instant| bucket(now) - bucket(at) < 10;
                self.calls.iter().filter(|(at, _)| recent(*at)).map(|(_, ended)| *ended).collect()
            }
            CircuitWindow::Calls(size) => {
                let old = self.calls.len().saturating_sub(size.get().into());
                self.calls[old..].iter().map(|(_, ended)| *ended).collect()
            }
        }
    }

    fn run(&self) -> u64 {
        let healths = self.calls.iter().rev().map(|(_, ended)| ended.health);
        healths.take_while(|health| *health != Health::Success).filter(|health| *health == Health::Failure).count()
            as u64
    }

    fn seen(&self, now: Instant) -> [u64; 5] {
        match &self.state {
            Mode::Closed | Mode::MetricsOnly { .. } => figures(&self.in_window(now), self.run()),
            Mode::HalfOpen { ended, .. } => figures(ended, 0),
            Mode::Open { seen, .. } | Mode::Isolated { seen } => *seen,
            Mode::Disabled => [0; 5],
        }
    }

    fn reached(&self, now: Instant) -> Option<CircuitReason> {
        let Settings { min_calls, failure_ratio, slow_ratio, consecutive, window, .. } = &self.settings;
        let [calls, failures, _, slow, run] = figures(&self.in_window(now), self.run());
        let min = match window {
            CircuitWindow::Calls(size) => u64::from(min_calls.get()).min(size.get().into()),
            CircuitWindow::Time(_) => min_calls.get().into(),
        };
        let last_good = self.calls.iter().rev().find(|(_, ended)| ended.health == Health::Success);
        let quiet = now - last_good.map_or(self.since, |(at, _)| *at) >= Duration::from_secs(1);
        if consecutive.is_some_and(|limit| run >= limit.get().into()) && (calls < min || quiet) {
            Some(CircuitReason::ConsecutiveFailures)
        } else if calls >= min && failures as f64 / calls as f64 >= *failure_ratio {
            Some(CircuitReason::FailureRatio)
        } else if calls >= min && slow_ratio.is_some_and(|ratio| slow as f64 / calls as f64 >= ratio) {
            Some(CircuitReason::SlowRatio)
        } else {
            None
        }
    }

    fn go(&mut self, to: Mode, cause: CircuitReason, now: Instant) -> Option<Told> {
        let (from, seen) = (self.name(), self.seen(now));
        self.state = to;
        self.generation += 1;
        Some((from, Some(self.name()), cause, seen))
    }

    fn open(&mut self, cause: CircuitReason, now: Instant) -> Option<Told> {
        let backoff = (self.settings.open * 2_u32.pow(self.trips.min(20))).min(self.settings.open_max);
        let asked = self.asked.iter().copied().max().unwrap_or(now);
        self.trips += 1;
        let seen = self.seen(now);
        self.go(Mode::Open { until: asked.max(now + backoff), probed_from: asked, healthy: 0, seen }, cause, now)
    }

    fn close(&mut self, cause: CircuitReason, now: Instant) -> Option<Told> {
        let to = if self.settings.metrics_only { Mode::MetricsOnly { told: false } } else { Mode::Closed };
        let told = self.go(to, cause, now);
        self.forget(now);
        told
    }

    fn forget(&mut self, now: Instant) {
        (self.since, self.trips) = (now, 0);
        self.calls.clear();
        self.asked.clear();
    }

    fn admit(&mut self, now: Instant) -> (Admission, Option<Told>) {
        let mut told = None;
        if let Mode::Open { until, .. } = self.state {
            if now < until {
                return (Admission::Refused { retry_after: Some(until - now) }, None);
            }
            let half_open = Mode::HalfOpen { probes: vec![], given: 0, ended: vec![] };
            told = self.go(half_open, CircuitReason::OpenTimeOver, now);
        }
        let generation = self.generation;
        let limit = self.settings.probe_timeout;
        let Mode::HalfOpen { probes, given, .. } = &mut self.state else {
            let admission = match self.state {
                Mode::Isolated { .. } => Admission::Refused { retry_after: None },
                _ => Admission::Granted(Grant { generation, role: Role::Call }),
            };
            return (admission, told);
        };
        if probes.iter().any(|probe| probe.is_with_upstream() && probe.waited_for_upstream(now) >= limit) {
            let told = self.open(CircuitReason::ProbeTimeout, now);
            let Mode::Open { until, .. } = self.state else { unreachable!() };
            return (Admission::Refused { retry_after: Some(until - now) }, told);
        }
        probes.retain(|probe| probe.is_with_upstream() || probe.rested(now) < limit);
        if probes.len() < self.settings.probes.get() as usize {
            *given += 1;
            let probe = Probe { id: *given, turns: vec![(now, false)] };
            let grant = Grant { generation, role: Role::Probe { id: probe.id } };
            probes.push(probe);
            return (Admission::Granted(grant), told);
        }
        let left = |probe: &Probe| match probe.is_with_upstream() {
            true => limit - probe.waited_for_upstream(now),
            false => limit - probe.rested(now),
        };
        let wait = probes.iter().map(left).min().unwrap().min(self.settings.open);
        (Admission::Refused { retry_after: Some(wait) }, told)
    }

    fn settle(&mut self, grant: Grant, ended: CallResult, now: Instant) -> Option<Told> {
        if grant.generation != self.generation {
            return None;
        }
        if let Mode::HalfOpen { probes, .. } = &mut self.state {
            let before = probes.len();
            probes.retain(|probe| grant.role != Role::Probe { id: probe.id });
            if matches!(grant.role, Role::Probe { .. }) && probes.len() == before {
                return None;
            }
        }
        if ended.health == Health::Ignored {
            return None;
        }
        if let (true, Some(after)) = (ended.health != Health::Success, ended.retry_after) {
            self.asked.push(now + after.min(self.settings.open_max));
        }
        let asked = self.asked.iter().copied().max();
        let bad = ended.health != Health::Success || ended.slow;
        let needed = self.settings.successes.unwrap_or(self.settings.probes).get();
        match &mut self.state {
            Mode::Closed => {
                self.calls.push((now, ended));
                self.reached(now).and_then(|cause| self.open(cause, now))
            }
            Mode::MetricsOnly { told } => {
                let told_before = *told;
                self.calls.push((now, ended));
                let reached = self.reached(now);
                self.state = Mode::MetricsOnly { told: reached.is_some() };
                reached.filter(|_| !told_before).map(|cause| (self.name(), None, cause, self.seen(now)))
            }
            Mode::HalfOpen { ended: log, .. } => {
                if grant.role == Role::Call && !bad {
                    return None;
                }
                log.push(ended);
                if bad {
                    return self.open(CircuitReason::ProbeFailed, now);
                }
                let enough = log.len() >= needed as usize;
                if enough { self.close(CircuitReason::ProbesSucceeded, now) } else { None }
            }
            Mode::Open { healthy, until, probed_from, .. } if grant.role == Role::Health => {
                *healthy = if bad { 0 } else { *healthy + 1 };
                *until = asked.map_or(*until, |at| at.max(*until));
                *probed_from = asked.map_or(*probed_from, |at| at.max(*probed_from));
                let enough = *healthy >= needed;
                if enough { self.close(CircuitReason::HealthProbeSucceeded, now) } else { None }
            }
            _ => None,
        }
    }

    fn turn(&mut self, grant: Grant, upstream: bool, now: Instant) {
        if let (Mode::HalfOpen { probes, .. }, true) = (&mut self.state, grant.generation == self.generation) {
            let mine = probes.iter_mut().filter(|probe| grant.role == Role::Probe { id: probe.id });
            mine.for_each(|probe| probe.turn(now, upstream));
        }
    }

    fn by_hand(&mut self, control: Control, now: Instant) -> Option<Told> {
        let (from, seen) = (self.name(), self.seen(now));
        let (to, same) = match control {
            Control::Isolate => (Mode::Isolated { seen }, from == CircuitState::Isolated),
            Control::OpenFor(time) => {
                let until = now + time;
                (Mode::Open { until, probed_from: until, healthy: 0, seen }, from == CircuitState::Open)
            }
            Control::Close => (Mode::Closed, from == CircuitState::Closed),
            Control::OnlyCount => (Mode::MetricsOnly { told: false }, from == CircuitState::MetricsOnly),
            Control::Disable => (Mode::Disabled, from == CircuitState::Disabled),
        };
        let told = match control {
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
        told
    }
}

fn figures(ended: &[CallResult], run: u64) -> [u64; 5] {
    let count = |is: fn(&CallResult) -> bool| ended.iter().filter(|ended| is(ended)).count() as u64;
    let failures = count(|ended| ended.health != Health::Success);
    [ended.len() as u64, failures, count(|ended| ended.health == Health::Throttled), count(|ended| ended.slow), run]
}

fn told(notice: BreakerEvent) -> Told {
    let (from, to, cause, seen) = match notice {
        BreakerEvent::Changed(change) => (change.from, Some(change.to), change.cause, change.figures),
        BreakerEvent::Reached { cause, figures } => (CircuitState::MetricsOnly, None, cause, figures),
    };
    (from, to, cause, [seen.calls, seen.failures, seen.throttled, seen.slow, seen.consecutive.into()])
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
    /// The guard that says how its call ended, by its place among those that are out.
    Settle(usize, CallResult),
    Exchange(usize),
    ProbeAdmission(usize, bool),
    ByHand(Control),
}

fn ended() -> impl Strategy<Value = CallResult> {
    let health = prop_oneof![
        5 => Just(Health::Success),
        6 => Just(Health::Failure),
        2 => Just(Health::Throttled),
        1 => Just(Health::Ignored),
    ];
    let retry_after = prop_oneof![8 => Just(None), 1 => (0_u64..90).prop_map(|s| Some(Duration::from_secs(s)))];
    (health, prop::bool::weighted(0.2), retry_after).prop_map(|(health, slow, retry_after)| CallResult {
        health,
        slow,
        retry_after,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let control = prop_oneof![
        1 => Just(Control::Isolate),
        1 => (0_u64..20).prop_map(|s| Control::OpenFor(Duration::from_secs(s))),
        2 => Just(Control::Close),
        1 => Just(Control::OnlyCount),
        1 => Just(Control::Disable),
    ];
    // Half seconds, so that every limit is hit to the nanosecond.
    const HALF: Duration = Duration::from_millis(500);
    prop_oneof![
        4 => (0_u32..4).prop_map(|n| Step::Pass(n * HALF)),
        2 => (0_u32..180).prop_map(|n| Step::Pass(n * HALF)),
        12 => Just(Step::Admit),
        1 => Just(Step::AdmitHealth),
        12 => (0_usize..8, ended()).prop_map(|(which, ended)| Step::Settle(which, ended)),
        2 => (0_usize..8).prop_map(Step::Exchange),
        3 => (0_usize..8, any::<bool>()).prop_map(|(which, upstream)| Step::ProbeAdmission(which, upstream)),
        1 => control.prop_map(Step::ByHand),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let window = prop_oneof![
        (1_u64..12).prop_map(|n| CircuitWindow::Time(Duration::from_secs(n * 5))),
        (1_u16..12).prop_map(|n| CircuitWindow::Calls(NonZeroU16::new(n).unwrap())),
    ];
    let nonzero = |range: std::ops::Range<u32>| range.prop_map(|n| NonZeroU32::new(n).unwrap());
    let ratios = (1_u32..=10, 1_u32..=10, any::<bool>());
    let half_open = (nonzero(1..4), prop::option::of(nonzero(1..4)), 1_u64..12);
    (window, nonzero(1..15), ratios, prop::option::of(nonzero(1..6)), half_open, prop::bool::weighted(0.1)).prop_map(
        |(window, min_calls, ratios, consecutive, (probes, successes, timeout), metrics_only)| Settings {
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
            // By itself it is seldom there for long.
            steps.insert(0, Step::ByHand(Control::OpenFor(Duration::ZERO)));
        }
        let mut now = Instant::now();
        let mut machine = Breaker::new(settings.clone(), 0, now);
        let mut model = Model::new(settings, now);
        let mut out: Vec<Grant> = vec![];
        for step in steps {
            let (notice, expected) = match step {
                Step::Pass(time) => {
                    now += time;
                    (None, None)
                }
                Step::Admit => {
                    let (admission, notice) = machine.admit(now);
                    let (expected, told) = model.admit(now);
                    prop_assert_eq!(admission, expected);
                    if let Admission::Granted(grant) = admission {
                        out.push(grant);
                    }
                    (notice, told)
                }
                Step::AdmitHealth => {
                    let grant = machine.admit_health(now);
                    let may = matches!(model.state, Mode::Open { probed_from, .. } if now >= probed_from);
                    prop_assert_eq!(grant.is_some(), may);
                    out.extend(grant);
                    (None, None)
                }
                Step::Settle(which, ended) if which < out.len() => {
                    let grant = out.remove(which);
                    (machine.settle(grant, ended, now), model.settle(grant, ended, now))
                }
                Step::Exchange(which) if which < out.len() => {
                    let good = CallResult { health: Health::Success, slow: false, retry_after: None };
                    let Role::Probe { id } = out[which].role else { continue };
                    let probe = out.remove(which);
                    let known = probe.generation == model.generation
                        && matches!(&model.state, Mode::HalfOpen { probes, .. } if probes.iter().any(|p| p.id == id));
                    let (rest, notice) = machine.exchange(probe, good, now);
                    let expected = model.settle(probe, good, now);
                    let call = Grant { generation: model.generation, role: Role::Call };
                    prop_assert_eq!(rest, known.then_some(call));
                    out.extend(rest);
                    (notice, expected)
                }
                Step::ProbeAdmission(which, upstream) if which < out.len() => {
                    if upstream { machine.probe_waits(out[which], now) } else { machine.probe_rests(out[which], now) }
                    model.turn(out[which], upstream, now);
                    (None, None)
                }
                Step::Settle(..) | Step::Exchange(_) | Step::ProbeAdmission(..) => continue,
                Step::ByHand(control) => {
                    let notice = match control {
                        Control::Isolate => machine.isolate(now),
                        Control::OpenFor(time) => machine.open_by_hand(time, now),
                        Control::Close => machine.close_by_hand(now),
                        Control::OnlyCount => machine.only_count(now),
                        Control::Disable => machine.disable(now),
                    };
                    (notice, model.by_hand(control, now))
                }
            };
            prop_assert_eq!(notice.map(told), expected);
            prop_assert_eq!(machine.state(), model.name());
            prop_assert_eq!(machine.generation(), model.generation);
            let snapshot = machine.snapshot(now);
            let seen = snapshot.figures;
            let seen = [seen.calls, seen.failures, seen.throttled, seen.slow, seen.consecutive.into()];
            prop_assert_eq!(seen, model.seen(now));
            if let Mode::Open { until, .. } = model.state {
                prop_assert_eq!(snapshot.open_for, Some(until.saturating_duration_since(now)));
            }
        }
    }

    /// What may be counted elsewhere may be counted elsewhere.
    #[test]
    fn successes_that_are_brought_in_late_change_nothing(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut now = Instant::now();
        let mut exact = Breaker::new(settings.clone(), 0, now);
        let mut lazy = Breaker::new(settings, 0, now);
        let (mut counted, mut last) = (0, now);
        let mut out: Vec<Grant> = vec![];
        for step in steps {
            if let Step::Pass(time) = step {
                now += time;
                continue;
            }
            if let Step::Settle(which, ended) = step {
                let grant = out.get(which).copied();
                let fast = lazy.fast().filter(|fast| {
                    grant.is_some_and(|grant| grant.generation == fast.generation && grant.role == Role::Call)
                        && ended == CallResult { health: Health::Success, slow: false, retry_after: None }
                        && fast.until.is_none_or(|until| now < until)
                });
                if fast.is_some() {
                    prop_assert_eq!(exact.settle(out.remove(which), ended, now), None);
                    (counted, last) = (counted + 1, now);
                    continue;
                }
            }
            lazy.absorb(counted, last);
            counted = 0;
            let mut both = |step: &mut dyn FnMut(&mut Breaker) -> Option<BreakerEvent>| (step(&mut exact), step(&mut lazy));
            let (a, b) = match step {
                Step::Admit => {
                    let mut granted = vec![];
                    let notices = both(&mut |machine| {
                        let (admission, notice) = machine.admit(now);
                        granted.push(admission);
                        notice
                    });
                    prop_assert_eq!(granted[0], granted[1]);
                    if let Admission::Granted(grant) = granted[0] {
                        out.push(grant);
                    }
                    notices
                }
                Step::Settle(which, ended) if which < out.len() => {
                    let grant = out.remove(which);
                    both(&mut |machine| machine.settle(grant, ended, now))
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
    fn open_times_double_up_to_the_maximum(open in 1_u64..100, factor in 1_u64..100, jitter in 0.0..2.0, trips: u32) {
        let settings = Settings {
            open: Duration::from_secs(open),
            open_max: Duration::from_secs(open * factor),
            jitter,
            ..Settings::default()
        };
        let time = settings.open_time(trips, &mut fastrand::Rng::with_seed(u64::from(trips) ^ open));
        prop_assert!(time >= settings.open && time <= settings.open_max);
        let nominal = 1_u32.checked_shl(trips).map_or(Duration::MAX, |factor| settings.open.saturating_mul(factor));
        // A nanosecond for the floating point.
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
        let settings = Settings { open_max: Duration::MAX, jitter: 1.0, ..settings };
        let mut machine = Breaker::new(settings, 7, start);
        let mut out: Vec<Grant> = vec![];
        let mut now = start;
        for (step, backwards, huge) in steps {
            match step {
                Step::Pass(time) => {
                    now = if backwards { now - time.min(now - (start - Duration::from_secs(80_000))) } else { now + time };
                }
                Step::Admit => {
                    if let Admission::Granted(grant) = machine.admit(now).0 {
                        out.push(grant);
                    }
                }
                Step::Settle(which, mut ended) if which < out.len() => {
                    if huge {
                        ended.retry_after = Some(Duration::MAX);
                    }
                    machine.settle(out.remove(which), ended, now);
                }
                Step::ByHand(Control::OpenFor(_)) if huge => {
                    machine.open_by_hand(Duration::MAX, now);
                    machine.snapshot(now);
                    machine.close_by_hand(now);
                }
                Step::ProbeAdmission(which, upstream) if which < out.len() => {
                    if upstream { machine.probe_waits(out[which], now) } else { machine.probe_rests(out[which], now) }
                }
                _ => {}
            }
            machine.absorb(if huge { u64::MAX } else { 1 }, now);
            machine.snapshot(now);
        }
    }
}
