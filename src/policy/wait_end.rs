use std::time::Duration;

use super::grace::grace;
use super::micros::{Micros, micros};

/// When a wait ends. If that is noticed late, the wait is extended once: see [`grace`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitEnd {
    at: Micros,
    is_extended: bool,
    /// It is the call's deadline, and not the longest wait of its layer.
    pub(crate) is_deadline: bool,
}

// === impl WaitEnd ===

impl WaitEnd {
    /// `left`: to the deadline of a call that comes now.
    pub(crate) fn new(now: Micros, max_wait: Duration, left: Option<Duration>) -> Self {
        let wait = left.map_or(max_wait, |left| left.min(max_wait));
        let is_deadline = left.is_some_and(|left| left < max_wait);
        Self { at: now.saturating_add(micros(wait)), is_extended: false, is_deadline }
    }

    pub(crate) const fn at(self) -> Micros {
        self.at
    }

    pub(crate) fn left(self, now: Micros) -> Duration {
        Duration::from_micros(self.at.saturating_sub(now))
    }

    /// It is not before this time.
    pub(crate) fn at_least(&mut self, at: Micros) {
        self.at = self.at.max(at);
    }

    /// Whether the wait is over. Extends it if that is noticed late.
    pub(crate) fn has_passed(&mut self, now: Micros) -> bool {
        let Some(late) = now.checked_sub(self.at) else { return false };
        match grace(Duration::from_micros(late)) {
            Some(grace) if !self.is_extended => {
                (self.at, self.is_extended) = (now.saturating_add(micros(grace)), true);
                false
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Micros = 1_000;

    fn end(at: Micros) -> WaitEnd {
        WaitEnd::new(0, Duration::from_micros(at), None)
    }

    #[test]
    fn the_deadline_ends_a_wait_that_would_be_longer() {
        let second = Duration::from_secs(1);
        for (left, at, is_deadline) in
            [(None, 1_007, false), (Some(2 * second), 1_007, false), (Some(second / 2), 507, true)]
        {
            let mut end = WaitEnd::new(7 * MS, second, left);
            assert_eq!((end.at(), end.is_deadline), (at * MS, is_deadline));
            assert_eq!((end.left(7 * MS), end.left(at * MS + 1)), (Duration::from_millis(at - 7), Duration::ZERO));
            end.at_least(8 * MS);
            assert_eq!(end.at(), at * MS);
            end.at_least(2_000 * MS);
            assert_eq!(end.at(), 2_000 * MS);
        }
    }

    #[test]
    fn an_end_that_is_noticed_in_time_is_the_end() {
        for late in [0, 100 * MS] {
            let mut end = end(MS);
            assert!(!end.has_passed(0) && !end.has_passed(MS - 1));
            assert!(end.has_passed(MS + late) && end.at() == MS, "{late}");
        }
    }

    #[test]
    fn an_end_that_is_noticed_late_is_put_off_once() {
        for (late, grace) in [(101 * MS, 50 * MS), (6_000 * MS, 500 * MS)] {
            let mut end = end(MS);
            assert!(!end.has_passed(MS + late));
            assert_eq!(end.at(), MS + late + grace);
            assert!(!end.has_passed(end.at() - 1) && end.has_passed(end.at() + late));
        }
    }

    #[test]
    fn an_extension_ends_with_the_clock() {
        let mut end = end(0);
        assert!(!end.has_passed(Micros::MAX) && end.has_passed(Micros::MAX));
    }
}
