//! Random numbers for all calls of a layer.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fastrand::Rng;

/// A sequence of random numbers that is shared by clones: each draw is another, on every clone and thread.
#[derive(Clone, Debug)]
pub(crate) struct Entropy(Arc<AtomicU64>);

/// Odd, so that 2^64 draws pass before a state comes again; the golden ratio, as in `SplitMix64`.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

// === impl Entropy ===

impl Entropy {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// A generator of its own for one draw.
    pub(crate) fn rng(&self) -> Rng {
        Rng::with_seed(self.0.fetch_add(STRIDE, Relaxed))
    }
}

impl Default for Entropy {
    /// Seeded by the operating system, by way of the standard library's hasher: processes that start in the same
    /// nanosecond differ too (fastrand's own seed is a hash of the time and the thread).
    fn default() -> Self {
        Self::seeded(RandomState::new().hash_one(STRIDE))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// tower 0.5 clones the generator of its `ExponentialBackoffMaker` into each session, so that all of them draw the
    /// same.
    #[test]
    fn clones_draw_different_numbers() {
        let entropy = Entropy::seeded(7);
        let draws: HashSet<u64> = (0..1_000).map(|_| entropy.clone().rng().u64(..)).collect();
        assert_eq!(draws.len(), 1_000);
    }

    #[test]
    fn layers_differ_and_seeds_repeat() {
        let draws = |entropy: Entropy| (0..4).map(|_| entropy.rng().u64(..)).collect::<Vec<_>>();
        assert_ne!(draws(Entropy::default()), draws(Entropy::default()));
        assert_eq!(draws(Entropy::seeded(7)), draws(Entropy::seeded(7)));
    }
}
