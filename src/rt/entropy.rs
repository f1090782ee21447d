//! Random numbers for all calls of a layer.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fastrand::Rng;
use sha2::{Digest, Sha256};

/// A sequence of random numbers, shared by clones: each draw differs, on every clone and thread.
#[derive(Clone, Debug)]
pub(crate) struct Entropy(Arc<AtomicU64>);

/// Odd, so that a state repeats only after 2^64 draws; the golden ratio, as in `SplitMix64`.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Unpredictable numbers, even given other ones.
pub(crate) struct Secrets {
    seed: [u8; 32],
    drawn: AtomicU64,
}

// === impl Entropy ===

impl Entropy {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// Returns a separate generator for one draw.
    pub(crate) fn rng(&self) -> Rng {
        Rng::with_seed(self.0.fetch_add(STRIDE, Relaxed))
    }
}

impl Default for Entropy {
    /// Seeded by the operating system, through the standard library's hasher: processes that start in the same nanosecond
    /// differ too (fastrand's own seed is a hash of the time and the thread).
    fn default() -> Self {
        Self::seeded(RandomState::new().hash_one(STRIDE))
    }
}

// === impl Secrets ===

impl Secrets {
    /// 128 random bits, as 32 hexadecimal digits.
    pub(crate) fn token(&self) -> String {
        self.draw().iter().take(16).fold(String::with_capacity(32), |mut token, byte| {
            token.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')));
            token
        })
    }

    /// 64 random bits.
    pub(crate) fn number(&self) -> u64 {
        self.draw().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn draw(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.drawn.fetch_add(1, Relaxed).to_le_bytes());
        hash.finalize().into()
    }
}

impl Default for Secrets {
    /// The standard library's hasher has a key of 128 bits from the operating system. Hashes of different numbers do not
    /// reveal that key, and together hold as much entropy.
    fn default() -> Self {
        let mut hash = Sha256::new();
        for number in 0..4_u64 {
            hash.update(RandomState::new().hash_one(number).to_le_bytes());
        }
        Self { seed: hash.finalize().into(), drawn: AtomicU64::new(0) }
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
    fn no_token_comes_twice() {
        let secrets = [Secrets::default(), Secrets::default()];
        let tokens: HashSet<String> = secrets.iter().flat_map(|secrets| (0..500).map(|_| secrets.token())).collect();
        assert_eq!(tokens.len(), 1_000);
        assert!(tokens.iter().all(|token| token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }

    #[test]
    fn layers_differ_and_seeds_repeat() {
        let draws = |entropy: Entropy| (0..4).map(|_| entropy.rng().u64(..)).collect::<Vec<_>>();
        assert_ne!(draws(Entropy::default()), draws(Entropy::default()));
        assert_eq!(draws(Entropy::seeded(7)), draws(Entropy::seeded(7)));
    }
}
