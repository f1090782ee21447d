//! An operator's changes to a circuit, independent of its counts; and which process sends health probes.

use std::time::{Duration, Instant};

use super::report::{CircuitReason, CircuitState};
use super::settings::BreakerSettings;
use super::{Breaker, BreakerEvent, Open, State};
use crate::policy::instant::saturating_add;
use crate::policy::window::Window;

// === impl Breaker ===

impl Breaker {
    /// Refuses everything until [`close`](Self::close_by_hand).
    pub(crate) fn isolate(&mut self, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        let seen = self.stats();
        (self.state() != CircuitState::Isolated)
            .then(|| self.change(State::Isolated { seen }, CircuitReason::Manual, None))
    }

    /// Opens for this time, or changes the open time.
    pub(crate) fn open_by_hand(&mut self, time: Duration, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        let until = saturating_add(now, time);
        let seen = self.stats();
        let open = State::Open(Open { until, probed_from: until, seen });
        if let State::Open(_) = self.state {
            self.state = open;
            // A health probe in flight must not undo this.
            self.next_generation();
            return None;
        }
        Some(self.change(open, CircuitReason::Manual, Some(time)))
    }

    /// Closes the circuit and resets its counts.
    pub(crate) fn close_by_hand(&mut self, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        let notice =
            (self.state() != CircuitState::Closed).then(|| self.change(State::Closed, CircuitReason::Manual, None));
        self.forget(now);
        notice
    }

    /// Lets every call pass, and keeps counting.
    pub(crate) fn only_count(&mut self, now: Instant) -> Option<BreakerEvent> {
        if self.state() == CircuitState::MetricsOnly {
            return None;
        }
        self.window.advance(now);
        let notice = self.change(State::MetricsOnly { reached: false }, CircuitReason::Manual, None);
        self.forget(now);
        Some(notice)
    }

    /// Lets every call pass, and counts nothing.
    pub(crate) fn disable(&mut self, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        (self.state() != CircuitState::Disabled).then(|| self.change(State::Disabled, CircuitReason::Manual, None))
    }

    /// Changes the settings. The counts stay, unless the window changes.
    pub(crate) fn configure(&mut self, settings: BreakerSettings, now: Instant) -> Option<BreakerEvent> {
        if settings.window != self.settings.window {
            self.window = Window::new(settings.window, now);
            // Results of the old window must not count in the new one.
            self.next_generation();
        }
        let counts_only = settings.metrics_only;
        let changes = counts_only != self.settings.metrics_only;
        self.settings = settings;
        match self.state {
            State::Closed if changes && counts_only => self.only_count(now),
            State::MetricsOnly { .. } if changes && !counts_only => self.close_by_hand(now),
            _ => None,
        }
    }

    /// Starts health probes by a task; until it ends no caller is a probe. Returns false if there is one already, or if
    /// the circuit is not open.
    pub(crate) fn begin_health(&mut self, every: Duration) -> bool {
        let begins = self.health_probed.is_none() && self.state() == CircuitState::Open;
        if begins {
            self.health_probed = Some(every);
        }
        begins
    }

    /// Ends the health probes, unless the circuit is open. Returns whether it did.
    pub(crate) fn end_health_unless_open(&mut self) -> bool {
        let ends = self.state() != CircuitState::Open;
        if ends {
            self.end_health();
        }
        ends
    }

    /// Ends the health probes.
    pub(crate) fn end_health(&mut self) {
        self.health_probed = None;
    }
}
