//! Decides when to stop calling an upstream, and when to try again.
//!
//! | File | Holds |
//! |---|---|
//! | `mod.rs` | the state machine and its states |
//! | `closed.rs` | counting calls, and the thresholds |
//! | `run.rs` | failures in a row, and cancelled calls |
//! | `own_failures.rs` | failures of a single caller |
//! | `half_open.rs` | probes |
//! | `peers.rs` | reports of other processes |
//! | `manual.rs` | an operator's changes, and health probes |
//! | `settings.rs`, `report.rs` | input and output |
//! | `model.rs`, `simulation.rs`, `tests.rs` | the machine written again as a list; simulated callers and upstreams; one test per rule |
//!
//! # When has a call succeeded?
//!
//! At its first data, or at its head if no body follows. A stream of ten minutes has succeeded from its first second, and
//! its reader may leave at `[DONE]` without reading the end. While it flows, its data is noted as a *sign of life*, once
//! a second. If its body fails later, the success is revoked, and a failure counts in its place.
//!
//! # Why both a ratio and a run?
//!
//! A run of failures shows an outage at once, but never an upstream that fails every second call. A ratio shows both, but
//! needs a minimum of calls, which a quiet service may take minutes to make. A busy upstream with a few percent of
//! failures has five in a row every few minutes; so the run opens the circuit only after [`QUIET`] without a sign of
//! life, or at three times the length after that time without a success, even while old streams flow.
//!
//! # Why do waiting calls count?
//!
//! Failures come at once, successes take time. Of sixty calls that begin together at an upstream that fails every tenth,
//! the first six outcomes are failures. So calls that began less than [`QUIET`] ago and wait for their first data count
//! as successes, until they have ended.
//!
//! # Why generations?
//!
//! A call that began before the circuit opened may end after it closed again; its result is about the past. Every change
//! of state begins a new generation, every call carries the generation that admitted it, and a result of another
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

mod closed;
mod half_open;
mod manual;
#[cfg(test)]
mod model;
pub(crate) mod order;
pub(crate) mod own_failures;
pub(crate) mod peers;
pub(crate) mod report;
mod run;
pub(crate) mod settings;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use self::half_open::{HalfOpen, ProbeAdmission};
use self::own_failures::LatestCallers;
use self::report::{CircuitChange, CircuitReason, CircuitSnapshot, CircuitState, CircuitStats};
pub(crate) use self::run::Caller;
use self::run::{CancelledCalls, Streak};
use self::settings::BreakerSettings;
use crate::policy::verdict::Health;
use crate::policy::window::{CountedIn, Sample, Window};

/// The state machine. It has no clock and takes no lock.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    rng: fastrand::Rng,
    state: State,
    generation: u32,
    window: Window,
    streak: Streak,
    cancelled: CancelledCalls,
    /// The callers of the latest failures.
    failed: LatestCallers,
    /// When counting began: at the start, or when the circuit last closed.
    since: Instant,
    /// The upstream's last sign of life since then.
    last_sign: Option<Instant>,
    /// Until when one failure opens the circuit again, unless a call succeeds before.
    probation: Option<Instant>,
    /// When the upstream asked to be called again.
    not_before: Option<Instant>,
    /// The number of probes in a row without an answer: open times double with each.
    unanswered: u32,
    opened: u64,
    /// The interval of health probes, while they are sent: then no caller is a probe.
    health_probed: Option<Duration>,
    /// Another process may be testing the upstream: no caller is a probe.
    is_held: bool,
}

#[derive(Debug)]
enum State {
    Closed,
    Open(Open),
    HalfOpen(HalfOpen),
    Isolated {
        seen: CircuitStats,
    },
    /// `reached`: the threshold has been reported, and is still reached.
    MetricsOnly {
        reached: bool,
    },
    Disabled,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    /// Health probes are sent from this instant on.
    probed_from: Instant,
    seen: CircuitStats,
}

/// Admits one call. Its holder reports exactly once how the call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallGrant {
    pub(crate) generation: u32,
    pub(crate) role: CallRole,
}

/// The role of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallRole {
    /// An ordinary call.
    Call,
    /// A probe of a half-open circuit.
    Probe { id: u32 },
    /// The health probe of an open circuit.
    Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitDecision {
    Granted(CallGrant),
    Refused { retry_after: Option<Duration> },
}

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallResult {
    pub(crate) health: Health,
    pub(crate) slow: bool,
    /// Whether the upstream answered, even with a failure.
    pub(crate) answered: bool,
    pub(crate) retry_after: Option<Duration>,
}

/// A counted success whose body is still flowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) generation: u32,
    pub(crate) slot: CountedIn,
    pub(crate) slow: bool,
}

/// An event to emit after the lock is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerEvent {
    Changed(CircuitChange),
    /// A circuit that only observes would have opened.
    Reached {
        reason: CircuitReason,
        stats: CircuitStats,
    },
}

/// Successes that may be counted outside the machine: of this generation, up to this instant, in this slot.
///
/// None of them can open the circuit; [`Breaker::absorb`] adds them before any call that might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fast {
    pub(crate) generation: u32,
    pub(crate) until: Option<Instant>,
    pub(crate) slot: CountedIn,
}

/// Every call is refused, which can be decided outside the machine too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuses {
    Until(Instant),
    Always,
}

/// An upstream that served a call within this time is busy, not down, however long the run of failures. A call that waits
/// less than this for its first data is still expected to succeed: few models take longer.
pub(crate) const QUIET: Duration = Duration::from_secs(5);

/// When a caller should retry while another process tests the upstream.
const HELD: Duration = Duration::from_secs(1);

// === impl Breaker ===

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings, seed: u64, now: Instant) -> Self {
        let state = if settings.metrics_only { State::MetricsOnly { reached: false } } else { State::Closed };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            state,
            generation: 1,
            window: Window::new(settings.window, now),
            streak: Streak::default(),
            cancelled: CancelledCalls::default(),
            failed: LatestCallers::default(),
            since: now,
            last_sign: None,
            probation: None,
            not_before: None,
            unanswered: 0,
            opened: 0,
            health_probed: None,
            is_held: false,
            settings,
        }
    }

    /// Decides on one more call.
    pub(crate) fn admit(&mut self, now: Instant) -> (CircuitDecision, Option<BreakerEvent>) {
        let mut event = None;
        if let State::Open(open) = &self.state {
            let left = open.until.saturating_duration_since(now);
            match self.health_probed {
                Some(every) if left.is_zero() => return (CircuitDecision::Refused { retry_after: Some(every) }, None),
                None if left.is_zero() && self.is_held => {
                    return (CircuitDecision::Refused { retry_after: Some(HELD) }, None);
                }
                None if left.is_zero() => {}
                _ => return (CircuitDecision::Refused { retry_after: Some(left) }, None),
            }
            // Open => HalfOpen
            let half = HalfOpen::new(now, self.open_time());
            event = Some(self.change(State::HalfOpen(half), CircuitReason::OpenTimeOver, None));
        }
        (self.admit_now(now), event)
    }

    fn admit_now(&mut self, now: Instant) -> CircuitDecision {
        let half = match &mut self.state {
            State::HalfOpen(_) if self.is_held => return CircuitDecision::Refused { retry_after: Some(HELD) },
            State::HalfOpen(half) => half,
            State::Isolated { .. } => return CircuitDecision::Refused { retry_after: None },
            _ => return self.granted(CallRole::Call),
        };
        match half.admit(&self.settings, now) {
            ProbeAdmission::Probe { id } => self.granted(CallRole::Probe { id }),
            ProbeAdmission::Wait { at_most } => CircuitDecision::Refused { retry_after: Some(at_most) },
            ProbeAdmission::Overdue => {
                // The probes in flight have got no answer in the whole open time.
                self.unanswered = self.unanswered.saturating_add(1);
                half.begin_wave(now, self.settings.open_time(self.unanswered, &mut self.rng));
                match half.admit(&self.settings, now) {
                    ProbeAdmission::Probe { id } => self.granted(CallRole::Probe { id }),
                    _ => CircuitDecision::Refused { retry_after: Some(self.settings.open) },
                }
            }
        }
    }

    /// Decides on a health probe: none while the upstream has asked for time, or the circuit was opened by hand.
    pub(crate) fn admit_health(&self, now: Instant) -> Option<CallGrant> {
        match &self.state {
            State::Open(open) if now >= open.probed_from => {
                Some(CallGrant { generation: self.generation, role: CallRole::Health })
            }
            _ => None,
        }
    }

    /// Returns the result of this caller's call as it counts: a failure that only this caller has does not. Tell whether
    /// another one was [served](own_failures::SERVED) lately.
    pub(crate) fn attribute(
        &mut self,
        grant: CallGrant,
        result: CallResult,
        caller: Caller,
        others_are_served: impl FnOnce() -> bool,
        now: Instant,
    ) -> CallResult {
        let is_ordinary = grant.is_call() && grant.generation == self.generation;
        if !is_ordinary || !sample(result).is_some_and(|sample| sample.failed) {
            return result;
        }
        self.failed.note(caller, now);
        let is_own = result.answered && !self.failed.are_shared(caller, now) && others_are_served();
        if is_own { CallResult { health: Health::Ignored, ..result } } else { result }
    }

    /// Counts the result of a call. `waiting` calls began less than [`QUIET`] ago and have no result. Returns where a
    /// success was counted; for a probe, the generation in which the rest of its body counts.
    pub(crate) fn settle(
        &mut self,
        grant: CallGrant,
        result: CallResult,
        waiting: u64,
        now: Instant,
    ) -> (Counted, Option<BreakerEvent>) {
        let nowhere = Counted { generation: grant.generation, slot: CountedIn::NONE, slow: result.slow };
        if grant.generation != self.generation {
            return (nowhere, None);
        }
        // A later wave of probes is in flight, and decides.
        let mut overtaken = false;
        if let CallRole::Probe { id } = grant.role {
            let State::HalfOpen(half) = &mut self.state else { return (nowhere, None) };
            match half.remove(id) {
                Some(decides) => overtaken = !decides,
                None => return (nowhere, None),
            }
        }
        let Some(sample) = sample(result) else { return (nowhere, None) };
        self.note_retry_after(result, now);
        match &mut self.state {
            State::Closed | State::MetricsOnly { .. } => {
                self.window.advance(now);
                let counted = Counted { slot: self.window.slot(), ..nowhere };
                self.window.push(sample);
                (counted, self.count(result.health, waiting, now))
            }
            State::HalfOpen(half) if sample.is_bad() => {
                half.note(sample);
                let event = (!overtaken).then(|| self.probe_failed(result.answered, now));
                (nowhere, event)
            }
            State::HalfOpen(half) => {
                let enough = half.note(sample) >= self.settings.successes();
                let event = enough.then(|| self.close(CircuitReason::ProbesSucceeded, now));
                (Counted { generation: self.generation, ..nowhere }, event)
            }
            State::Open(open) if grant.role == CallRole::Health => {
                open.put_off(self.not_before);
                let event = (!sample.is_bad()).then(|| self.close(CircuitReason::HealthProbeSucceeded, now));
                (nowhere, event)
            }
            State::Open(_) | State::Isolated { .. } | State::Disabled => (nowhere, None),
        }
    }

    /// Handles the end of a body after a success. Nothing changes unless it failed, or made the call slow.
    pub(crate) fn finish(
        &mut self,
        counted: Counted,
        result: CallResult,
        waiting: u64,
        now: Instant,
    ) -> Option<BreakerEvent> {
        let sample = sample(result)?;
        let was = Sample { slow: counted.slow, ..Sample::default() };
        if counted.generation != self.generation || sample == was {
            return None;
        }
        match &mut self.state {
            State::Closed | State::MetricsOnly { .. } => {
                self.note_retry_after(result, now);
                self.window.advance(now);
                self.window.recount(counted.slot, was, sample);
                if sample.failed {
                    self.streak.take_back();
                }
                if result.health == Health::Failure {
                    self.streak.fail(now);
                }
                self.reached(waiting, now)
            }
            State::HalfOpen(half) if sample.is_bad() => {
                half.note(sample);
                self.note_retry_after(result, now);
                Some(self.probe_failed(result.answered, now))
            }
            _ => None,
        }
    }

    /// Counts a call that its caller cancelled before the first data, after the upstream had kept it waiting too long.
    pub(crate) fn cancel(
        &mut self,
        grant: CallGrant,
        caller: Caller,
        slow: bool,
        waiting: u64,
        now: Instant,
    ) -> Option<BreakerEvent> {
        if grant.generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed | State::MetricsOnly { .. } => {
                if !self.cancelled.counts(caller, now) {
                    return None;
                }
                self.window.advance(now);
                self.window.push(Sample { failed: true, throttled: false, slow });
                self.streak.cancel(caller, now);
                self.reached(waiting, now)
            }
            State::HalfOpen(half) => {
                let CallRole::Probe { id } = grant.role else { return None };
                let decides = half.remove(id)?;
                half.note(Sample { failed: true, throttled: false, slow });
                decides.then(|| self.probe_failed(false, now))
            }
            _ => None,
        }
    }

    /// Releases a probe without a result.
    pub(crate) fn give_back(&mut self, probe: CallGrant) {
        if let (State::HalfOpen(half), CallRole::Probe { id }) = (&mut self.state, probe.role) {
            if probe.generation == self.generation {
                half.remove(id);
            }
        }
    }

    /// Notes a sign of life: a success, or data of a stream in flight. It may be older than the counting.
    pub(crate) fn note_sign_of_life(&mut self, at: Instant) {
        if at >= self.since {
            self.last_sign = self.last_sign.max(Some(at));
        }
    }

    /// Adds successes that were counted outside, as [`fast`](Self::fast) allows, since the last time.
    pub(crate) fn absorb(&mut self, calls: u64) {
        if calls > 0 {
            self.window.push_successes(calls);
            self.streak.succeed(calls);
            self.probation = None;
            self.forget_reached();
        }
    }

    pub(crate) fn fast(&self) -> Option<Fast> {
        match self.state {
            State::Closed | State::MetricsOnly { .. } if !self.settings.success_may_trip(&self.window.sum()) => {
                let (until, slot) = (self.window.fresh_until(), self.window.slot());
                Some(Fast { generation: self.generation, until, slot })
            }
            State::Disabled => Some(Fast { generation: self.generation, until: None, slot: CountedIn::NONE }),
            _ => None,
        }
    }

    /// Whether every call is refused.
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

    /// Whether evicting this circuit would lose more than its counters: its open state, or an operator's change.
    pub(crate) fn is_pinned(&self) -> bool {
        match &self.state {
            State::Isolated { .. } | State::Disabled | State::Open(_) | State::HalfOpen(_) => true,
            State::MetricsOnly { .. } => !self.settings.metrics_only,
            State::Closed => false,
        }
    }

    pub(crate) fn snapshot(&mut self, now: Instant) -> CircuitSnapshot {
        self.window.advance(now);
        CircuitSnapshot {
            state: self.state(),
            stats: self.stats(),
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

    fn granted(&self, role: CallRole) -> CircuitDecision {
        CircuitDecision::Granted(CallGrant { generation: self.generation, role })
    }
}

// === impl CallGrant ===

impl CallGrant {
    pub(crate) const fn call(generation: u32) -> Self {
        Self { generation, role: CallRole::Call }
    }

    pub(crate) fn is_call(self) -> bool {
        self.role == CallRole::Call
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

// === impl CallResult ===

impl CallResult {
    pub(crate) const SUCCESS: Self = Self { health: Health::Success, slow: false, answered: true, retry_after: None };
    /// No answer came.
    pub(crate) const UNANSWERED: Self =
        Self { health: Health::Failure, slow: false, answered: false, retry_after: None };
}

/// How a call with this result is counted; `None` if the result does not judge the upstream.
fn sample(result: CallResult) -> Option<Sample> {
    let (failed, throttled) = match result.health {
        Health::Success => (false, false),
        Health::Failure => (true, false),
        Health::Throttled => (true, true),
        _ => return None,
    };
    Some(Sample { failed, throttled, slow: result.slow })
}
