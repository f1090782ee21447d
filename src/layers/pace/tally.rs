//! Counts the calls of a limit that all may pass, each thread in a place of its own.

use crate::policy::pace::SAMPLE;
use crate::rt::per_thread::Slots;
use crate::rt::sync::{AtomicU32, Ordering};

/// How many calls are under way, and every [`SAMPLE`]th answer.
#[derive(Debug)]
pub(super) struct Tally {
    threads: Slots<Counts>,
    /// Eights of answers, of all threads together.
    eights: AtomicU32,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU32,
    /// Those that began on this thread, less those that ended on it: the sum over all threads is their number.
    under_way: AtomicU32,
}

/// Threads beyond this share a place, for there is a tally for each key.
const SLOTS: usize = 8;
const PART: u32 = 8;

// === impl Tally ===

impl Tally {
    #[inline]
    pub(super) fn enter(&self) {
        self.threads.own().under_way.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.threads.own().under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many have entered and not left. Exact where none enters or leaves meanwhile.
    pub(super) fn under_way(&self) -> u32 {
        self.threads.iter().map(|counts| counts.under_way.load(Ordering::Relaxed)).fold(0, u32::wrapping_add)
    }

    /// Counts an answer. Returns whether it completes a sample.
    #[inline]
    pub(super) fn count(&self) -> bool {
        let is_part = self.threads.own().answered.fetch_add(1, Ordering::Relaxed) % PART == PART - 1;
        is_part && self.eights.fetch_add(1, Ordering::Relaxed) % (SAMPLE / PART) == SAMPLE / PART - 1
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self { threads: Slots::new(SLOTS, Counts::default), eights: AtomicU32::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_of_a_sample_is_told() {
        let tally = Tally::default();
        let told: Vec<_> = (1..=3 * SAMPLE).filter(|_| tally.count()).collect();
        assert_eq!(told, [SAMPLE, 2 * SAMPLE, 3 * SAMPLE]);
    }

    #[test]
    fn a_call_may_end_on_another_thread() {
        let tally = Tally::default();
        tally.enter();
        tally.enter();
        std::thread::scope(|scope| scope.spawn(|| tally.leave()).join().unwrap());
        assert_eq!(tally.under_way(), 1);
        tally.leave();
        assert_eq!(tally.under_way(), 0);
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
