//! How long a consumer has been kept waiting.

use std::time::{Duration, Instant};

/// Adds up the time spent waiting for the other side since it last gave a sign of life.
///
/// Time between a hand-over and the next request for more belongs to the consumer, and does not count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    /// Waiting since.
    since: Option<Instant>,
    /// Waited before that, while what came was no sign of life.
    waited: Duration,
}

/// A task that is woken runs sooner than that.
const LATE: Duration = Duration::from_secs(1);

// === impl Idle ===

impl Idle {
    pub(crate) const fn new() -> Self {
        Self { since: None, waited: Duration::ZERO }
    }

    /// A sign of life.
    #[inline]
    pub(crate) fn alive(&mut self) {
        *self = Self::default();
    }

    /// Something came that is no sign of life: the wait is interrupted, not over.
    pub(crate) fn interrupted(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(now.saturating_duration_since(since));
        }
    }

    /// The same for a wait that ends after `limit`. A consumer that polls more than a second after that was not waiting, and since
    /// when is not known: that time does not count.
    pub(crate) fn interrupted_within(&mut self, limit: Duration, now: Instant) {
        match self.until(limit) {
            Some(end) if now.saturating_duration_since(end) > LATE => self.since = None,
            _ => self.interrupted(now),
        }
    }

    /// Nothing has come. The clock is asked only when a wait begins.
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

    /// When the wait will have lasted for `limit`; `None` if no consumer waits, or that is beyond the clock's range.
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
