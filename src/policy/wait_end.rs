use std::time::Duration;

use super::grace::grace;
use super::micros::{Micros, micros};

/// When a wait ends. If that is noticed late, the wait is extended once: see [`grace`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitEnd {
    at: Micros,
    is_extended: bool,
}

// === impl WaitEnd ===

impl WaitEnd {
    pub(crate) const fn new(at: Micros) -> Self {
        Self { at, is_extended: false }
    }

    pub(crate) const fn at(self) -> Micros {
        self.at
    }

    /// Whether the wait is over. Extends it if that is noticed late.
    pub(crate) fn has_passed(&mut self, now: Micros) -> bool {
        let Some(late) = now.checked_sub(self.at) else { return false };
        match grace(Duration::from_micros(late)) {
            Some(grace) if !self.is_extended => {
                *self = Self { at: now.saturating_add(micros(grace)), is_extended: true };
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

    #[test]
    fn an_end_that_is_noticed_in_time_is_the_end() {
        for late in [0, 100 * MS] {
            let mut end = WaitEnd::new(MS);
            assert!(!end.has_passed(0) && !end.has_passed(MS - 1));
            assert!(end.has_passed(MS + late) && end.at() == MS, "{late}");
        }
    }

    #[test]
    fn an_end_that_is_noticed_late_is_put_off_once() {
        for (late, grace) in [(101 * MS, 50 * MS), (6_000 * MS, 500 * MS)] {
            let mut end = WaitEnd::new(MS);
            assert!(!end.has_passed(MS + late));
            assert_eq!(end.at(), MS + late + grace);
            assert!(!end.has_passed(end.at() - 1) && end.has_passed(end.at() + late));
        }
    }

    #[test]
    fn an_extension_ends_with_the_clock() {
        let mut end = WaitEnd::new(0);
        assert!(!end.has_passed(Micros::MAX) && end.has_passed(Micros::MAX));
    }
}
