//! Counts the answers of a limit, per thread.

use crate::policy::pace::SAMPLE;
use crate::rt::per_thread::Striped;
use crate::rt::sync::{AtomicU32, Ordering};

/// Every [`SAMPLE`]th answer.
#[derive(Debug)]
pub(super) struct AnswerSample {
    threads: Striped<AtomicU32>,
    /// Groups of eight answers, of all threads together.
    eights: AtomicU32,
}

/// Further threads share a place, for each key has a tally.
pub(super) const STRIPES: usize = 8;
const PART: u32 = 8;

// === impl Tally ===

impl AnswerSample {
    /// Counts an answer. Returns whether it completes a sample.
    #[inline]
    pub(super) fn count(&self) -> bool {
        // Not added at once: threads that share a place may lose a part of eight, and each call is spared a locked write.
        let own = self.threads.own();
        let count = own.load(Ordering::Relaxed);
        own.store(count.wrapping_add(1), Ordering::Relaxed);
        count % PART == PART - 1 && self.eights.fetch_add(1, Ordering::Relaxed) % (SAMPLE / PART) == SAMPLE / PART - 1
    }
}

impl Default for AnswerSample {
    fn default() -> Self {
        Self { threads: Striped::new(STRIPES, AtomicU32::default), eights: AtomicU32::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_of_a_sample_is_reported() {
        let tally = AnswerSample::default();
        let samples: Vec<_> = (1..=3 * SAMPLE).filter(|_| tally.count()).collect();
        assert_eq!(samples, [SAMPLE, 2 * SAMPLE, 3 * SAMPLE]);
    }

    #[test]
    fn threads_are_counted_together() {
        let tally = AnswerSample::default();
        let count = || (0..40 * SAMPLE).filter(|_| tally.count()).count();
        // One after the other: at once, those that share a place may lose a part of a sample.
        let samples: usize = (0..4).map(|_| std::thread::scope(|scope| scope.spawn(count).join().unwrap())).sum();
        assert_eq!(samples, 4 * 40);
    }
}
