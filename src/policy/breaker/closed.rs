//! Counts calls, and opens and closes the circuit.

use std::time::{Duration, Instant};

use super::report::{CircuitChange, CircuitReason, CircuitState, CircuitStats};
use super::{Breaker, BreakerEvent, CallResult, Open, QUIET, Refuses, State};
use crate::policy::instant::saturating_add;
use crate::policy::verdict::Health;
use crate::policy::window::Tally;

/// Failures in a row required per waiting call: an upstream that fails less often would probably have failed the waiting
/// calls too.
const OUTNUMBERED: u64 = 4;
/// How many times the usual length a run must have to open the circuit while old streams flow.
const BESIDE_STREAMS: u32 = 3;
/// Within this time after the circuit has closed, one failure opens it again.
const PROBATION: Duration = Duration::from_secs(10);

// === impl Breaker ===

impl Breaker {
    /// Counts a call in the window.
    pub(super) fn count(&mut self, health: Health, waiting: u64, now: Instant) -> Option<BreakerEvent> {
        match health {
            Health::Failure => self.streak.fail(now),
            // The upstream answered but did not serve: this neither ends the run nor extends it.
            Health::Throttled => {}
            _ => {
                self.streak.succeed(1);
                self.probation = None;
                self.note_sign_of_life(now);
            }
        }
        self.reached(waiting, now)
    }

    /// Opens the circuit if a threshold is reached, or reports that it would.
    pub(super) fn reached(&mut self, waiting: u64, now: Instant) -> Option<BreakerEvent> {
        let reached = self.threshold(waiting, now);
        if let State::MetricsOnly { reached: reported } = &mut self.state {
            let news = reached.filter(|_| !*reported);
            *reported = reached.is_some();
            return news.map(|reason| BreakerEvent::Reached { reason, stats: self.stats() });
        }
        // Closed => Open
        reached.map(|reason| self.open(reason, now, now))
    }

    /// Returns the threshold that is reached, counting waiting calls as successes.
    fn threshold(&self, waiting: u64, now: Instant) -> Option<CircuitReason> {
        let alone = now.saturating_duration_since(self.last_sign.unwrap_or(self.since));
        let run = self.streak.run();
        let length = run.length(alone);
        if u64::from(length) > waiting.saturating_mul(OUTNUMBERED) {
            if self.probation.is_some_and(|until| now < until) {
                return Some(CircuitReason::FailedAfterClosing);
            }
            let limit = self.settings.consecutive.map_or(u32::MAX, |limit| limit.get());
            let silent = self.last_sign.is_none_or(|last_sign| now.saturating_duration_since(last_sign) >= QUIET);
            let long = length >= limit.saturating_mul(BESIDE_STREAMS) && run.lasted(now) >= QUIET;
            if length >= limit && (silent || long) {
                return Some(CircuitReason::ConsecutiveFailures);
            }
        }
        self.settings.ratio_reached(&self.window.sum(), waiting)
    }

    pub(super) fn forget_reached(&mut self) {
        let still = self.settings.ratio_reached(&self.window.sum(), 0).is_some();
        if let State::MetricsOnly { reached } = &mut self.state {
            *reached &= still;
        }
    }

    /// Notes when a failed upstream asked to be called again.
    pub(super) fn note_retry_after(&mut self, result: CallResult, now: Instant) {
        let asked = result.retry_after.filter(|_| result.health != Health::Success);
        if let Some(at) = asked.and_then(|after| now.checked_add(after.min(self.settings.open_max))) {
            self.not_before = self.not_before.max(Some(at));
        }
    }

    // HalfOpen => Open
    pub(super) fn probe_failed(&mut self, answered: bool, now: Instant) -> BreakerEvent {
        if !answered {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        // Probes begin one open time apart, whatever they take.
        let since = if let State::HalfOpen(half) = &self.state { half.wave_began() } else { now };
        self.open(CircuitReason::ProbeFailed, since, now)
    }

    // Closed | HalfOpen => Open
    fn open(&mut self, reason: CircuitReason, since: Instant, now: Instant) -> BreakerEvent {
        let backoff = self.open_time();
        // The upstream's own time is better than a guess.
        let asked = self.not_before.unwrap_or(now);
        let until = saturating_add(since, backoff).max(asked);
        let open = Open { until, probed_from: asked, seen: self.stats() };
        self.change(State::Open(open), reason, Some(until.saturating_duration_since(now)))
    }

    // HalfOpen | Open => Closed
    pub(super) fn close(&mut self, reason: CircuitReason, now: Instant) -> BreakerEvent {
        let state = if self.settings.metrics_only { State::MetricsOnly { reached: false } } else { State::Closed };
        let event = self.change(state, reason, None);
        self.forget(now);
        self.last_sign = Some(now);
        self.probation = Some(saturating_add(now, PROBATION));
        event
    }

    pub(super) fn forget(&mut self, now: Instant) {
        self.window.clear(now);
        self.streak = super::Streak::default();
        self.since = now;
        self.last_sign = None;
        self.probation = None;
        self.not_before = None;
        self.unanswered = 0;
    }

    pub(super) fn change(&mut self, state: State, reason: CircuitReason, open_for: Option<Duration>) -> BreakerEvent {
        let (from, stats) = (self.state(), self.stats());
        self.state = state;
        self.next_generation();
        let to = self.state();
        self.opened = self.opened.saturating_add(u64::from(to == CircuitState::Open));
        BreakerEvent::Changed(CircuitChange { from, to, reason, stats, open_for, generation: self.generation })
    }

    pub(super) fn next_generation(&mut self) {
        // Zero is reserved: it means that nothing may be counted elsewhere.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }

    /// Returns the wait before the next probes.
    pub(super) fn open_time(&mut self) -> Duration {
        self.settings.open_time(self.unanswered, &mut self.rng)
    }

    pub(super) fn stats(&self) -> CircuitStats {
        match &self.state {
            State::Closed | State::MetricsOnly { .. } => CircuitStats::new(self.window.sum(), self.streak.failures()),
            State::Open(Open { seen, .. }) | State::Isolated { seen } => *seen,
            State::HalfOpen(half) => CircuitStats::new(half.seen(), 0),
            State::Disabled => CircuitStats::new(Tally::default(), 0),
        }
    }

    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        match self.refuses()? {
            Refuses::Until(until) => Some(until.saturating_duration_since(now)),
            Refuses::Always => None,
        }
    }
}
