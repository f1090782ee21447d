//! When a silent stream is due a heartbeat, and when it is given up.

use std::time::{Duration, Instant};

/// Measures two silences: that of the upstream, and that of what goes downstream, where heartbeats are no silence.
///
/// Both begin when somebody waits, so that time in which nobody reads makes no heartbeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    interval: Duration,
    limit: Option<Duration>,
    /// The upstream has been silent since.
    silent: Option<Instant>,
    /// Nothing has gone downstream since.
    quiet: Option<Instant>,
}

/// What a silence leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Beat,
    /// There have been enough of them.
    End,
}

// === impl Pulse ===

impl Pulse {
    pub(crate) const fn new(interval: Duration, limit: Option<Duration>) -> Self {
        Self { interval, limit, silent: None, quiet: None }
    }

    /// The upstream sent something.
    #[inline]
    pub(crate) fn heard(&mut self) {
        self.silent = None;
    }

    /// Something went downstream.
    #[inline]
    pub(crate) fn sent(&mut self) {
        self.quiet = None;
    }

    /// Nothing has come. The clock is asked only when a wait begins.
    #[inline]
    pub(crate) fn waiting(&mut self, now: impl FnOnce() -> Instant) {
        if self.quiet.is_none() || self.silent.is_none() {
            let now = now();
            self.quiet.get_or_insert(now);
            self.silent.get_or_insert(now);
        }
    }

    /// What comes next, and when; `None` if that is never. Where both come at once, the end does.
    #[inline]
    pub(crate) fn due(&self, may_beat: bool) -> Option<(Instant, Due)> {
        let beat = if may_beat { self.quiet.and_then(|quiet| quiet.checked_add(self.interval)) } else { None };
        let end = self.limit.and_then(|limit| self.silent?.checked_add(limit));
        match (beat, end) {
            (Some(beat), Some(end)) if beat < end => Some((beat, Due::Beat)),
            (_, Some(end)) => Some((end, Due::End)),
            (Some(beat), None) => Some((beat, Due::Beat)),
            (None, None) => None,
        }
    }

    /// The longest silence of the upstream that is allowed.
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
        let mut pulse = Pulse::new(15 * S, None);
        assert_eq!(pulse.due(true), None, "nobody waits");
        pulse.waiting(|| start);
        pulse.waiting(|| start + 5 * S);
        assert_eq!(pulse.due(true), Some((start + 15 * S, Due::Beat)));
        pulse.sent();
        pulse.waiting(|| start + 20 * S);
        assert_eq!(pulse.due(true), Some((start + 35 * S, Due::Beat)));
        pulse.heard();
        pulse.sent();
        assert_eq!(pulse.due(true), None);
    }

    #[test]
    fn beats_do_not_put_off_the_end() {
        let start = Instant::now();
        let mut pulse = Pulse::new(15 * S, Some(30 * S));
        pulse.waiting(|| start);
        assert_eq!(pulse.due(true), Some((start + 15 * S, Due::Beat)));
        assert_eq!(pulse.due(false), Some((start + 30 * S, Due::End)));
        pulse.sent();
        pulse.waiting(|| start + 15 * S);
        assert_eq!(pulse.due(true), Some((start + 30 * S, Due::End)));
        pulse.heard();
        pulse.waiting(|| start + 16 * S);
        assert_eq!(pulse.due(false), Some((start + 46 * S, Due::End)));
        assert_eq!(pulse.due(true), Some((start + 30 * S, Due::Beat)), "what was heard has not gone downstream");
    }

    #[test]
    fn no_arithmetic_overflows() {
        let mut pulse = Pulse::new(Duration::MAX, Some(Duration::MAX));
        pulse.waiting(Instant::now);
        assert_eq!(pulse.due(true), None);
    }
}
