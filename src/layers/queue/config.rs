use std::time::Duration;

use crate::event::Emitter;
use crate::policy::queue::{Adaptive, ConcurrencyLimit};
use crate::rt::layer_classifier::LayerClassifier;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) limit: Concurrency,
    pub(super) max_waiting: usize,
    pub(super) max_wait: Duration,
    pub(super) classifier: LayerClassifier,
    pub(super) emitter: Emitter,
    pub(super) name: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concurrency {
    Fixed(u32),
    Auto {
        min: u32,
        max: u32,
    },
    /// A part of the places of another queue.
    Part {
        now: u32,
        most: u32,
    },
}

/// Bounds the memory of the places.
pub(super) const MOST: u32 = 65_536;
/// The initial adaptive limit: as many as a provider's smallest accounts allow.
const START: u32 = 10;

/// How many of the places may be held by calls whose requests are still on their way: a caller is slow at no cost.
pub(super) fn part_for_uploads(places: u32) -> u32 {
    (places / 4).max(1)
}

// === impl Concurrency ===

impl Concurrency {
    pub(super) fn limit(self) -> ConcurrencyLimit {
        match self {
            Self::Fixed(limit) | Self::Part { now: limit, .. } => ConcurrencyLimit::Fixed(limit),
            Self::Auto { min, max } => ConcurrencyLimit::Adaptive(Adaptive::new(min, max, START)),
        }
    }

    /// Whether calls take places without the lock.
    #[inline]
    pub(super) fn is_fixed(self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// Whether a call's result changes the limit.
    #[inline]
    pub(super) fn counts_losses(self) -> bool {
        matches!(self, Self::Auto { .. })
    }

    pub(super) fn most(self) -> u32 {
        match self {
            Self::Fixed(limit) => limit,
            Self::Auto { max: most, .. } | Self::Part { most, .. } => most,
        }
    }

    /// The places for calls whose requests are still on their way. `None`: it is them.
    pub(super) fn for_uploads(self) -> Option<Self> {
        let now = self.limit().limit();
        let part = |calls| Self::Part { now: part_for_uploads(now), most: part_for_uploads(calls) };
        match self {
            Self::Fixed(limit) => Some(part(limit)),
            Self::Auto { max, .. } => Some(part(max)),
            Self::Part { .. } => None,
        }
    }
}

impl Config {
    pub(super) fn new(limit: Concurrency) -> Self {
        Self {
            limit,
            max_waiting: 1024,
            max_wait: Duration::from_secs(30),
            classifier: LayerClassifier::default(),
            emitter: Emitter::default(),
            name: "queue",
        }
    }
}
