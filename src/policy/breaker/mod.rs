//! When to stop calling an upstream, and when to try again.
//!
//! # Why both a ratio and a run?
//!
//! A run of failures tells of an outage at once, but never of an upstream that fails every second call. A ratio tells
//! of both, but needs a minimum of calls before it means anything, which a quiet service may take minutes to make. So
//! the run speaks while the window holds too little, or when nothing has succeeded lately; otherwise five failures in a
//! row are what a busy upstream with a few percent of them shows every other minute.
//!
//! # Why generations?
//!
//! A call that began before the circuit opened may end after it closed again. What it says is about the past. Every
//! change of state begins a new generation, every call carries the one it was let in under, and a result from another
//! generation changes nothing.
//!
//! ```text
//!             threshold                     open time over
//!  Closed ──────────────────▶ Open ──────────────────────────▶ HalfOpen
//!    ▲                         ▲ │ health probe succeeded          │ │
//!    │◀────────────────────────┼─┘                  probe failed   │ │
//!    │                         └───────────────────────────────────┘ │
//!    └───────────────────────────────────────────────────────────────┘
//!                               probes succeeded
//! ```

mod half_open;
mod manual;
#[cfg(test)]
mod model;
pub(crate) mod report;
pub(crate) mod settings;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use self::half_open::{HalfOpen, ProbeAdmission};
use self::report::{CircuitChange, CircuitReason, CircuitSnapshot, CircuitState, CircuitStats};
use self::settings::Settings;
use crate::policy::verdict::Health;
use crate::policy::window::{Sample, Tally, Window};

/// The machine. It knows no time but what it is given, and takes no lock.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: Settings,
    rng: fastrand::Rng,
    state: State,
    generation: u32,
    window: Window,
    /// Failures since the last success.
    run: u32,
    /// When a call last succeeded, or the window was last cleared.
    quiet_since: Instant,
    /// When the upstream said to come back.
    not_before: Option<Instant>,
    /// How often the circuit opened since it was last closed.
    trips: u32,
    opened: u64,
    /// How often somebody sends a health probe: then no caller need be one.
    health_probed: Option<Duration>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open(Open),
    HalfOpen(HalfOpen),
    Isolated {
        seen: CircuitStats,
    },
    /// `reached`: the threshold was told of, and has not been left since.
    MetricsOnly {
        reached: bool,
    },
    Disabled,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    /// Health probes are sent from here on.
    probed_from: Instant,
    healthy: u32,
    by_hand: bool,
    seen: CircuitStats,
}

/// Leave to make one call, as plain data. Whoever holds one says exactly once how the call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) generation: u32,
    pub(crate) role: Role,
}

/// What a call is to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of many.
    Call,
    /// One of the few that a half-open circuit lets through.
    Probe { id: u32 },
    /// The health probe of an open circuit.
    Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Granted(Grant),
    Refused { retry_after: Option<Duration> },
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallResult {
    pub(crate) health: Health,
    pub(crate) slow: bool,
    pub(crate) retry_after: Option<Duration>,
}

/// Something to tell, once no lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerEvent {
    Changed(CircuitChange),
    /// A circuit that only counts would have opened.
    Reached {
        cause: CircuitReason,
        figures: CircuitStats,
    },
}

/// What may be counted elsewhere, without asking here: successes of this generation, up to this instant.
///
/// None of them can open the circuit; [`Breaker::absorb`] brings them in before anything that might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fast {
    pub(crate) generation: u32,
    pub(crate) until: Option<Instant>,
}

/// Nothing passes: this needs no asking either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuses {
    Until(Instant),
    Always,
}

/// A busy upstream that has just answered somebody else is not gone, however long the run of failures.
const QUIET: Duration = Duration::from_secs(1);

// === impl Breaker ===

impl Breaker {
    pub(crate) fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        let state = if settings.metrics_only { State::MetricsOnly { reached: false } } else { State::Closed };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            state,
            generation: 1,
            window: Window::new(settings.window, now),
            run: 0,
            quiet_since: now,
            not_before: None,
            trips: 0,
            opened: 0,
            health_probed: None,
            settings,
        }
    }

    /// May one more call be made?
    pub(crate) fn admit(&mut self, now: Instant) -> (Admission, Option<BreakerEvent>) {
        let mut notice = None;
        if let State::Open(open) = &self.state {
            let left = open.until.saturating_duration_since(now);
            match self.health_probed {
                Some(every) if left.is_zero() => return (Admission::Refused { retry_after: Some(every) }, None),
                None if left.is_zero() => {}
                _ => return (Admission::Refused { retry_after: Some(left) }, None),
            }
            // Open => HalfOpen
            notice = Some(self.change(State::HalfOpen(HalfOpen::default()), CircuitReason::OpenTimeOver, None));
        }
        let State::HalfOpen(half) = &mut self.state else {
            let admission = match self.state {
                State::Isolated { .. } => Admission::Refused { retry_after: None },
                _ => self.granted(Role::Call),
            };
            return (admission, notice);
        };
        match half.turn(&self.settings, now) {
            ProbeAdmission::Probe { id } => (self.granted(Role::Probe { id }), notice),
            ProbeAdmission::Wait { at_most } => {
                (Admission::Refused { retry_after: Some(at_most.min(self.settings.open)) }, notice)
            }
            ProbeAdmission::TimedOut => {
                let notice = self.open(CircuitReason::ProbeTimeout, now);
                let retry_after = self.open_for(now);
                (Admission::Refused { retry_after }, Some(notice))
            }
        }
    }

    /// May a health probe be sent? Not while the upstream has asked for time, or somebody opened the circuit by hand.
    pub(crate) fn admit_health(&self, now: Instant) -> Option<Grant> {
        match &self.state {
            State::Open(open) if now >= open.probed_from => {
                Some(Grant { generation: self.generation, role: Role::Health })
            }
            _ => None,
        }
    }

    /// A call is over.
    pub(crate) fn settle(&mut self, grant: Grant, ended: CallResult, now: Instant) -> Option<BreakerEvent> {
        if grant.generation != self.generation {
            return None;
        }
        if let Role::Probe { id } = grant.role {
            let State::HalfOpen(half) = &mut self.state else { return None };
            // It may have been given up, because its consumer let it lie.
            if !half.remove(id) {
                return None;
            }
        }
        let sample = sample(ended)?;
        let asked = ended.retry_after.filter(|_| sample.failed);
        if let Some(at) = asked.and_then(|after| now.checked_add(after.min(self.settings.open_max))) {
            self.not_before = self.not_before.max(Some(at));
        }
        match &mut self.state {
            State::Closed | State::MetricsOnly { .. } => self.count(sample, ended.health, now),
            State::HalfOpen(half) if sample.is_bad() => {
                half.note(sample);
                Some(self.open(CircuitReason::ProbeFailed, now))
            }
            // The good end of a body whose first data was a success already.
            State::HalfOpen(_) if grant.role == Role::Call => None,
            State::HalfOpen(half) => {
                let enough = half.note(sample) >= self.settings.successes();
                enough.then(|| self.close(CircuitReason::ProbesSucceeded, now))
            }
            State::Open(open) if grant.role == Role::Health => {
                open.healthy = if sample.is_bad() { 0 } else { open.healthy.saturating_add(1) };
                open.put_off(self.not_before);
                let enough = open.healthy >= self.settings.successes();
                enough.then(|| self.close(CircuitReason::HealthProbeSucceeded, now))
            }
            State::Open(_) | State::Isolated { .. } | State::Disabled => None,
        }
    }

    /// A probe has brought its first data, which settles it. What becomes of the rest of its body is another question,
    /// asked under the generation that is current now.
    pub(crate) fn exchange(
        &mut self,
        probe: Grant,
        ended: CallResult,
        now: Instant,
    ) -> (Option<Grant>, Option<BreakerEvent>) {
        if !self.is_on_its_way(probe) {
            return (None, None);
        }
        let notice = self.settle(probe, ended, now);
        (Some(Grant::call(self.generation)), notice)
    }

    /// A probe has nothing to say.
    pub(crate) fn give_back(&mut self, probe: Grant) {
        if let (Some(half), Role::Probe { id }) = (self.half_open_for(probe), probe.role) {
            half.remove(id);
        }
    }

    /// A probe is waiting for the upstream.
    pub(crate) fn probe_waits(&mut self, probe: Grant, now: Instant) {
        if let Some(half) = self.half_open_for(probe) {
            half.waits(probe.role, now);
        }
    }

    /// A probe is waiting for its consumer.
    pub(crate) fn probe_rests(&mut self, probe: Grant, now: Instant) {
        if let Some(half) = self.half_open_for(probe) {
            half.rests(probe.role, now);
        }
    }

    /// Calls that were counted elsewhere, as [`fast`](Self::fast) allows, since this was last called.
    pub(crate) fn absorb(&mut self, calls: u64, last: Instant) {
        if calls > 0 {
            self.window.push_good(calls);
            self.run = 0;
            self.quiet_since = self.quiet_since.max(last);
            self.forget_reached();
        }
    }

    pub(crate) fn fast(&self) -> Option<Fast> {
        match self.state {
            State::Closed | State::MetricsOnly { .. } if !self.settings.success_may_trip(&self.window.sum()) => {
                Some(Fast { generation: self.generation, until: self.window.fresh_until() })
            }
            State::Disabled => Some(Fast { generation: self.generation, until: None }),
            _ => None,
        }
    }

    /// Whether every call is refused, whoever asks.
    pub(crate) fn refuses(&self) -> Option<Refuses> {
        match &self.state {
            State::Open(open) => Some(Refuses::Until(open.until)),
            State::Isolated { .. } => Some(Refuses::Always),
            _ => None,
        }
    }

    /// Whether calls pass, in any number.
    pub(crate) fn passes(&self) -> bool {
        matches!(self.state, State::Closed | State::MetricsOnly { .. } | State::Disabled)
    }

    /// Whether more would be lost with it than what it has counted: what somebody said, or what a probe will say.
    pub(crate) fn is_pinned(&self) -> bool {
        match &self.state {
            State::Isolated { .. } | State::Disabled => true,
            State::MetricsOnly { .. } => !self.settings.metrics_only,
            State::Open(open) => open.by_hand,
            State::HalfOpen(half) => half.probes() > 0,
            State::Closed => false,
        }
    }

    pub(crate) fn snapshot(&mut self, now: Instant) -> CircuitSnapshot {
        self.window.advance(now);
        CircuitSnapshot {
            state: self.state(),
            figures: self.figures(),
            open_for: self.open_for(now),
            probes: if let State::HalfOpen(half) = &self.state { half.probes() } else { 0 },
            opened: self.opened,
            refused: 0,
        }
    }

    pub(crate) fn state(&self) -> CircuitState {
        match self.state {
            State::Closed => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::HalfOpen { .. } => CircuitState::HalfOpen,
            State::Isolated { .. } => CircuitState::Isolated,
            State::MetricsOnly { .. } => CircuitState::MetricsOnly,
            State::Disabled => CircuitState::Disabled,
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    fn granted(&self, role: Role) -> Admission {
        Admission::Granted(Grant { generation: self.generation, role })
    }

    fn half_open_for(&mut self, probe: Grant) -> Option<&mut HalfOpen> {
        match &mut self.state {
            State::HalfOpen(half) if probe.generation == self.generation => Some(half),
            _ => None,
        }
    }

    fn is_on_its_way(&mut self, probe: Grant) -> bool {
        self.half_open_for(probe).is_some_and(|half| half.knows(probe.role))
    }
}

// === impl Grant ===

impl Grant {
    pub(crate) const fn call(generation: u32) -> Self {
        Self { generation, role: Role::Call }
    }

    pub(crate) fn is_call(self) -> bool {
        self.role == Role::Call
    }
}

// === impl Open ===

impl Open {
    /// The upstream has asked for more time.
    fn put_off(&mut self, not_before: Option<Instant>) {
        self.until = not_before.map_or(self.until, |at| at.max(self.until));
        self.probed_from = not_before.map_or(self.probed_from, |at| at.max(self.probed_from));
    }
}

/// What it says about the upstream; `None` if nothing.
fn sample(ended: CallResult) -> Option<Sample> {
    let (failed, throttled) = match ended.health {
        Health::Success => (false, false),
        Health::Failure => (true, false),
        Health::Throttled => (true, true),
        _ => return None,
    };
    Some(Sample { failed, throttled, slow: ended.slow })
}

// === impl Breaker: counting and changing ===

impl Breaker {
    fn count(&mut self, sample: Sample, health: Health, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        self.window.push(sample);
        match health {
            Health::Failure => self.run = self.run.saturating_add(1),
            // It answered, but it did not serve: neither the end of the run nor a part of it.
            Health::Throttled => {}
            _ => {
                self.run = 0;
                self.quiet_since = self.quiet_since.max(now);
            }
        }
        let reached = self.reached(now);
        if let State::MetricsOnly { reached: told } = &mut self.state {
            let news = reached.filter(|_| !*told);
            *told = reached.is_some();
            return news.map(|cause| BreakerEvent::Reached { cause, figures: self.figures() });
        }
        // Closed => Open
        reached.map(|cause| self.open(cause, now))
    }

    fn reached(&self, now: Instant) -> Option<CircuitReason> {
        let sum = self.window.sum();
        let run = self.settings.consecutive.is_some_and(|limit| self.run >= limit.get());
        let silent = || now.saturating_duration_since(self.quiet_since) >= QUIET;
        if run && (sum.calls < self.settings.min_calls() || silent()) {
            return Some(CircuitReason::ConsecutiveFailures);
        }
        self.settings.ratio_reached(&sum)
    }

    fn forget_reached(&mut self) {
        let still = self.settings.ratio_reached(&self.window.sum()).is_some();
        if let State::MetricsOnly { reached } = &mut self.state {
            *reached &= still;
        }
    }

    // Closed | HalfOpen => Open
    fn open(&mut self, cause: CircuitReason, now: Instant) -> BreakerEvent {
        let backoff = self.settings.open_time(self.trips, &mut self.rng);
        self.trips = self.trips.saturating_add(1);
        // An upstream that names a time knows better than a doubled guess.
        let asked = self.not_before.unwrap_or(now);
        let until = saturating_add(now, backoff).max(asked);
        let open = Open { until, probed_from: asked, healthy: 0, by_hand: false, seen: self.figures() };
        self.change(State::Open(open), cause, Some(until.saturating_duration_since(now)))
    }

    // HalfOpen | Open => Closed
    fn close(&mut self, cause: CircuitReason, now: Instant) -> BreakerEvent {
        let state = if self.settings.metrics_only { State::MetricsOnly { reached: false } } else { State::Closed };
        let notice = self.change(state, cause, None);
        self.forget(now);
        notice
    }

    fn forget(&mut self, now: Instant) {
        self.window.clear(now);
        self.run = 0;
        self.quiet_since = now;
        self.not_before = None;
        self.trips = 0;
    }

    fn change(&mut self, state: State, cause: CircuitReason, open_for: Option<Duration>) -> BreakerEvent {
        let (from, figures) = (self.state(), self.figures());
        self.state = state;
        self.next_generation();
        let to = self.state();
        self.opened = self.opened.saturating_add(u64::from(to == CircuitState::Open));
        BreakerEvent::Changed(CircuitChange { from, to, cause, figures, open_for, generation: self.generation })
    }

    fn next_generation(&mut self) {
        // Zero is none: it says that nothing may be counted elsewhere.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }

    fn figures(&self) -> CircuitStats {
        match &self.state {
            State::Closed | State::MetricsOnly { .. } => CircuitStats::new(self.window.sum(), self.run),
            State::Open(Open { seen, .. }) | State::Isolated { seen } => *seen,
            State::HalfOpen(half) => CircuitStats::new(half.seen(), 0),
            State::Disabled => CircuitStats::new(Tally::default(), 0),
        }
    }

    fn open_for(&self, now: Instant) -> Option<Duration> {
        match self.refuses()? {
            Refuses::Until(until) => Some(until.saturating_duration_since(now)),
            Refuses::Always => None,
        }
    }
}

/// The farthest instant that can be told where `now + time` cannot be.
fn saturating_add(now: Instant, time: Duration) -> Instant {
    // Thirty years: what tokio takes for "far in the future".
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    now.checked_add(time).or_else(|| now.checked_add(FAR)).unwrap_or(now)
}
