//! Counts the answers of a limit, per thread.

use crate::policy::pace::SAMPLE;
use crate::rt::per_thread::Striped;
use crate::rt::sync::{AtomicU32, Ordering};

/// Every [`SAMPLE`]th answer.
#[derive(Debug)]
pub(super) struct Tally {
    threads: Striped<AtomicU32>,
    /// Groups of eight answers, of all threads together.
    eights: AtomicU32,
}

/// Further threads share a place, for each key has a tally.
pub(super) const STRIPES: usize = 8;
const PART: u32 = 8;

// === impl Tally ===

impl Tally {
    /// Counts an answer. Returns whether it completes a sample.
    #[inline]
    pub(super) fn count(&self) -> bool {
        let is_part = self.threads.own().fetch_add(1, Ordering::Relaxed) % PART == PART - 1;
        is_part && self.eights.fetch_add(1, Ordering::Relaxed) % (SAMPLE / PART) == SAMPLE / PART - 1
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self { threads: Striped::new(STRIPES, AtomicU32::default), eights: AtomicU32::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_of_a_sample_is_reported() {
        let tally = Tally::default();
        let told: Vec<_> = (1..=3 * SAMPLE).filter(|_| tally.count()).collect();
        assert_eq!(told, [SAMPLE, 2 * SAMPLE, 3 * SAMPLE]);
    }

    #[test]
    fn threads_are_counted_together() {
        let tally = Tally::default();
        let count = || (0..40 * SAMPLE).filter(|_| tally.count()).count();
        let told: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(told, 4 * 40);
    }
}
