//! Measures how long a consumer has waited.

use std::time::{Duration, Instant};

/// Adds up the time spent waiting for the other side since its last activity.
///
/// Time between a frame and the consumer's next poll does not count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    /// The start of the current wait.
    since: Option<Instant>,
    /// Earlier waits since the last activity.
    waited: Duration,
}

/// A woken task runs sooner than this.
const LATE: Duration = Duration::from_secs(1);

// === impl Idle ===

impl Idle {
    pub(crate) const fn new() -> Self {
        Self { since: None, waited: Duration::ZERO }
    }

    /// Notes activity.
    #[inline]
    pub(crate) fn alive(&mut self) {
        *self = Self::default();
    }

    /// Notes data that is no activity: the wait is interrupted, not over.
    pub(crate) fn interrupted(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(now.saturating_duration_since(since));
        }
    }

    /// The same for a wait that ends after `limit`. If the consumer polls more than a second after the limit, it was not
    /// waiting; that time does not count.
    pub(crate) fn interrupted_within(&mut self, limit: Duration, now: Instant) {
        match self.until(limit) {
            Some(end) if now.saturating_duration_since(end) > LATE => self.since = None,
            _ => self.interrupted(now),
        }
    }

    /// No data is ready. Reads the clock only when a wait begins.
    #[inline]
    pub(crate) fn waiting(&mut self, now: impl FnOnce() -> Instant) {
        if self.since.is_none() {
            self.since = Some(now());
        }
    }

    #[inline]
    pub(crate) const fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Returns when the wait will reach `limit`; `None` if no consumer waits, or that is beyond the clock's range.
    pub(crate) fn until(&self, limit: Duration) -> Option<Instant> {
        self.since?.checked_add(limit.saturating_sub(self.waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn only_waiting_counts() {
        let start = Instant::now();
        let mut idle = Idle::default();
        assert_eq!(idle.until(10 * S), None);
        idle.waiting(|| start);
        idle.waiting(|| start + 3 * S);
        assert_eq!(idle.until(10 * S), Some(start + 10 * S));
        // Four seconds waited, then a comment, then the consumer took a minute over it.
        idle.interrupted(start + 4 * S);
        assert_eq!(idle.until(10 * S), None);
        idle.waiting(|| start + 64 * S);
        assert_eq!(idle.until(10 * S), Some(start + 70 * S));
        idle.alive();
        idle.waiting(|| start + 65 * S);
        assert_eq!(idle.until(10 * S), Some(start + 75 * S));
        // The consumer was called after ten seconds of this, and comes a minute later.
        idle.interrupted_within(10 * S, start + 135 * S);
        idle.waiting(|| start + 135 * S);
        idle.interrupted_within(10 * S, start + 139 * S);
        idle.waiting(|| start + 139 * S);
        assert_eq!(idle.until(10 * S), Some(start + 145 * S));
    }

    #[test]
    fn no_arithmetic_overflows() {
        let start = Instant::now();
        let mut idle = Idle::default();
        idle.waiting(|| start);
        assert_eq!(idle.until(Duration::MAX), None);
        idle.interrupted(start - S);
        idle.waiting(|| start);
        assert_eq!(idle.until(Duration::ZERO), Some(start));
    }

    #[test]
    fn a_wait_has_begun_or_not() {
        let start = Instant::now();
        let mut idle = Idle::default();
        assert!(!idle.is_waiting());
        idle.waiting(|| start);
        assert!(idle.is_waiting());
        idle.interrupted(start + S);
        assert!(!idle.is_waiting());
    }
}
