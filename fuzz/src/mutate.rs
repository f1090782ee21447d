//! Builds inputs from a vocabulary, and mutates them.

use fastrand::Rng;

/// Earlier inputs, to build upon.
const POOL: usize = 256;
/// Exceeds every limit that a target sets.
const MAX_LEN: usize = 512;

pub(crate) struct Mutator {
    vocabulary: &'static [&'static [u8]],
    pool: Vec<Vec<u8>>,
    rng: Rng,
}

// === impl Mutator ===

impl Mutator {
    pub(crate) fn new(vocabulary: &'static [&'static [u8]], seed: u64) -> Self {
        Self { vocabulary, pool: vec![Vec::new()], rng: Rng::with_seed(seed) }
    }

    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        let mut input = if self.rng.bool() { self.fresh() } else { self.pooled() };
        for _ in 0..self.rng.usize(..4) {
            self.spoil(&mut input);
        }
        input.truncate(MAX_LEN);
        if self.pool.len() < POOL {
            self.pool.push(input.clone());
        } else {
            let at = self.rng.usize(..POOL);
            self.pool[at].clone_from(&input);
        }
        input
    }

    fn fresh(&mut self) -> Vec<u8> {
        (0..self.rng.usize(..16)).flat_map(|_| self.word()).copied().collect()
    }

    fn pooled(&mut self) -> Vec<u8> {
        self.pool[self.rng.usize(..self.pool.len())].clone()
    }

    fn word(&mut self) -> &'static [u8] {
        self.rng.choice(self.vocabulary).copied().unwrap_or_default()
    }

    fn spoil(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.usize(..=input.len());
        let to = self.rng.usize(at..=input.len());
        match self.rng.u8(..6) {
            0 if at < input.len() => input[at] ^= 1 << self.rng.u8(..8),
            1 => input.insert(at, self.rng.u8(..)),
            2 => drop(input.drain(at..to)),
            3 => drop(input.splice(at..at, self.word().iter().copied())),
            4 => {
                let copied = input[at..to].to_vec();
                drop(input.splice(at..at, copied));
            }
            _ => {
                let other = self.pooled();
                drop(input.splice(at..to, other));
            }
        }
    }
}
