//! What somebody asks of a circuit, whatever it has seen.

use std::time::{Duration, Instant};

use super::report::{CircuitReason, CircuitState};
use super::{Breaker, BreakerEvent, Open, State, saturating_add};

// === impl Breaker ===

impl Breaker {
    /// Refuses everything until [`close`](Self::close_by_hand).
    pub(crate) fn isolate(&mut self, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        let seen = self.figures();
        (self.state() != CircuitState::Isolated)
            .then(|| self.change(State::Isolated { seen }, CircuitReason::Manual, None))
    }

    /// Opens for this long, or changes for how long it is open.
    pub(crate) fn open_by_hand(&mut self, time: Duration, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        let until = saturating_add(now, time);
        let seen = self.figures();
        let open = State::Open(Open { until, probed_from: until, healthy: 0, by_hand: true, seen });
        if let State::Open(_) = self.state {
            self.state = open;
            // What a health probe says that is on its way now must not undo this.
            self.next_generation();
            return None;
        }
        Some(self.change(open, CircuitReason::Manual, Some(time)))
    }

    /// Closes and forgets.
    pub(crate) fn close_by_hand(&mut self, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        let notice =
            (self.state() != CircuitState::Closed).then(|| self.change(State::Closed, CircuitReason::Manual, None));
        self.forget(now);
        notice
    }

    /// Lets everything pass, and goes on counting.
    pub(crate) fn only_count(&mut self, now: Instant) -> Option<BreakerEvent> {
        if self.state() == CircuitState::MetricsOnly {
            return None;
        }
        self.window.advance(now);
        let notice = self.change(State::MetricsOnly { reached: false }, CircuitReason::Manual, None);
        self.forget(now);
        Some(notice)
    }

    /// Lets everything pass, and counts nothing.
    pub(crate) fn disable(&mut self, now: Instant) -> Option<BreakerEvent> {
        self.window.advance(now);
        (self.state() != CircuitState::Disabled).then(|| self.change(State::Disabled, CircuitReason::Manual, None))
    }

    /// Somebody begins to send health probes: false if somebody does already, or if the circuit is not open. While they
    /// do, no caller is made a probe.
    pub(crate) fn begin_health(&mut self, every: Duration) -> bool {
        let begins = self.health_probed.is_none() && self.state() == CircuitState::Open;
        if begins {
            self.health_probed = Some(every);
        }
        begins
    }

    /// They end, unless the circuit is open.
    pub(crate) fn end_health_unless_open(&mut self) -> bool {
        let ends = self.state() != CircuitState::Open;
        if ends {
            self.end_health();
        }
        ends
    }

    /// They end, whatever comes.
    pub(crate) fn end_health(&mut self) {
        self.health_probed = None;
    }
}
