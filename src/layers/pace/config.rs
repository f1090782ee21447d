use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;

use crate::event::Emitter;
use crate::policy::pace::{Bucket, Rate};
use crate::proto::rate_limit::Unit;
use crate::rt::layer_classifier::LayerClassifier;
use crate::store::pace::PacePeers;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) role: PaceRole,
    pub(super) rates: Vec<(Unit, Rate)>,
    pub(super) concurrency: Option<u32>,
    pub(super) learn: bool,
    pub(super) max_pause: Duration,
    pub(super) max_wait: Duration,
    pub(super) key: Option<KeyBy>,
    pub(super) by_model: bool,
    pub(super) max_keys: usize,
    pub(super) classifier: LayerClassifier,
    pub(super) emitter: Emitter,
    pub(super) peers: Option<Peers>,
    pub(super) name: &'static str,
    /// What answers call the limits of a caller, which are the same for all, once it is known.
    pub(super) policy: OnceLock<Option<HeaderValue>>,
}

/// Whose limits apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PaceRole {
    /// The upstream's, by the credential of the request.
    Upstream,
    /// Your own, per caller.
    Callers,
}

/// Returns the key of the limit that a request counts for.
#[derive(Clone)]
pub(super) struct KeyBy(pub(super) Arc<KeyFn>);

pub(super) type KeyFn = dyn Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync;

/// The peers of a layer.
#[derive(Clone)]
pub(super) struct Peers(pub(super) Arc<dyn PacePeers>);

// === impl Config ===

impl Config {
    pub(super) fn new(role: PaceRole) -> Self {
        let max_wait = match role {
            PaceRole::Upstream => Duration::from_secs(30),
            PaceRole::Callers => Duration::ZERO,
        };
        Self {
            role,
            rates: Vec::new(),
            concurrency: None,
            learn: false,
            max_pause: Duration::from_secs(60),
            max_wait,
            key: None,
            by_model: false,
            max_keys: 1024,
            classifier: LayerClassifier::default(),
            emitter: Emitter::default(),
            peers: None,
            name: match role {
                PaceRole::Upstream => "pace",
                PaceRole::Callers => "pace-per-caller",
            },
            policy: OnceLock::new(),
        }
    }

    /// Full buckets for one key. An upstream's calls are spaced; a caller may use its whole rate at once.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let burst = |rate: Rate| match self.role {
            PaceRole::Upstream => rate.or_burst(1),
            PaceRole::Callers => rate.or_burst(rate.units()),
        };
        self.rates.iter().map(|(unit, rate)| Bucket::new(*unit, burst(*rate))).collect()
    }

    pub(super) fn is_upstream(&self) -> bool {
        self.role == PaceRole::Upstream
    }

    /// Whether answers report the caller's remaining limits.
    pub(super) fn shows_limits(&self) -> bool {
        self.role == PaceRole::Callers && (!self.rates.is_empty() || self.concurrency.is_some())
    }

    /// Whether tokens are counted, or may be later.
    pub(super) fn counts_tokens(&self) -> bool {
        self.learn || self.rates.iter().any(|(unit, _)| *unit != Unit::Requests)
    }

    /// Whether to read the limits in answers.
    pub(super) fn reads_limits(&self) -> bool {
        self.is_upstream() && (self.learn || !self.rates.is_empty())
    }
}

impl fmt::Debug for KeyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBy")
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacePeers")
    }
}
