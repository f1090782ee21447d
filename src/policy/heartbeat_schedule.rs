//! When a silent stream needs a heartbeat, and when it ends.

use std::time::{Duration, Instant};

use super::idle::Idle;

/// Measures two silences: the upstream's, and the downstream's, which heartbeats end.
///
/// Both begin when the consumer waits: time in which it does not read causes no heartbeats, and ends no stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeartbeatSchedule {
    interval: Duration,
    limit: Option<Duration>,
    /// How long the consumer has waited for the upstream.
    silent: Idle,
    /// When the downstream silence began.
    quiet: Option<Instant>,
}

/// The next action after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextAction {
    Beat,
    /// End the stream.
    End,
}

// === impl HeartbeatSchedule ===

impl HeartbeatSchedule {
    pub(crate) const fn new(interval: Duration, limit: Option<Duration>) -> Self {
        Self { interval, limit, silent: Idle::new(), quiet: None }
    }

    /// The upstream sent data.
    #[inline]
    pub(crate) fn on_activity(&mut self) {
        self.silent.alive();
    }

    /// Data went downstream.
    #[inline]
    pub(crate) fn sent(&mut self) {
        self.quiet = None;
    }

    /// A heartbeat goes downstream: until the consumer polls again, it does not wait for the upstream.
    pub(crate) fn beat(&mut self, now: Instant) {
        self.sent();
        self.silent.interrupted(now);
    }

    /// No data is ready. Reads the clock only when a wait begins, and returns that reading.
    #[inline]
    pub(crate) fn waiting(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        if self.quiet.is_some() && self.silent.is_waiting() {
            return None;
        }
        let now = now();
        self.quiet.get_or_insert(now);
        self.silent.waiting(|| now);
        Some(now)
    }

    /// Returns the next action and its time; `None` if there is none. If both are due at once, the stream ends.
    #[inline]
    pub(crate) fn due(&self, may_beat: bool) -> Option<(Instant, NextAction)> {
        let beat = if may_beat { self.quiet.and_then(|quiet| quiet.checked_add(self.interval)) } else { None };
        let end = self.limit.and_then(|limit| self.silent.until(limit));
        match (beat, end) {
            (Some(beat), Some(end)) if beat < end => Some((beat, NextAction::Beat)),
            (_, Some(end)) => Some((end, NextAction::End)),
            (Some(beat), None) => Some((beat, NextAction::Beat)),
            (None, None) => None,
        }
    }

    /// The longest silence of the upstream.
    pub(crate) const fn limit(&self) -> Option<Duration> {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn beats_follow_each_other_and_the_upstream_starts_them_again() {
        let start = Instant::now();
        let mut schedule = HeartbeatSchedule::new(15 * S, None);
        assert_eq!(schedule.due(true), None, "no consumer waits");
        schedule.waiting(|| start);
        schedule.waiting(|| start + 5 * S);
        assert_eq!(schedule.due(true), Some((start + 15 * S, NextAction::Beat)));
        schedule.sent();
        schedule.waiting(|| start + 20 * S);
        assert_eq!(schedule.due(true), Some((start + 35 * S, NextAction::Beat)));
        schedule.on_activity();
        schedule.sent();
        assert_eq!(schedule.due(true), None);
    }

    #[test]
    fn beats_do_not_put_off_the_end() {
        let start = Instant::now();
        let mut schedule = HeartbeatSchedule::new(15 * S, Some(30 * S));
        schedule.waiting(|| start);
        assert_eq!(schedule.due(true), Some((start + 15 * S, NextAction::Beat)));
        assert_eq!(schedule.due(false), Some((start + 30 * S, NextAction::End)));
        schedule.beat(start + 15 * S);
        schedule.waiting(|| start + 15 * S);
        assert_eq!(schedule.due(true), Some((start + 30 * S, NextAction::End)));
        schedule.on_activity();
        schedule.waiting(|| start + 16 * S);
        assert_eq!(schedule.due(false), Some((start + 46 * S, NextAction::End)));
        assert_eq!(
            schedule.due(true),
            Some((start + 30 * S, NextAction::Beat)),
            "activity of the upstream has not gone downstream"
        );
    }

    #[test]
    fn a_reader_that_does_not_poll_is_not_waiting() {
        let start = Instant::now();
        let mut schedule = HeartbeatSchedule::new(15 * S, Some(30 * S));
        schedule.waiting(|| start);
        schedule.beat(start + 15 * S);
        assert_eq!(schedule.due(true), None);
        schedule.waiting(|| start + 100 * S);
        assert_eq!(schedule.due(true), Some((start + 115 * S, NextAction::End)));
    }

    #[test]
    fn no_arithmetic_overflows() {
        let mut schedule = HeartbeatSchedule::new(Duration::MAX, Some(Duration::MAX));
        schedule.waiting(Instant::now);
        assert_eq!(schedule.due(true), None);
    }
}
