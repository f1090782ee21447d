use std::time::Duration;

use http::HeaderName;

use crate::call::Memory;
use crate::event::Emitter;
use crate::policy::backoff::Backoff;
use crate::policy::retry::RetryPolicy;
use crate::rt::entropy::Entropy;
use crate::rt::layer_classifier::LayerClassifier;
use crate::rt::random_key::RandomKeys;
use crate::rt::retry_budget::RetryBudget;

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) policy: RetryPolicy,
    pub(super) budget: RetryBudget,
    pub(super) classifier: LayerClassifier,
    pub(super) entropy: Entropy,
    pub(super) replay_limit: usize,
    pub(super) memory: Memory,
    pub(super) attempt_header: Option<HeaderName>,
    pub(super) keys: Option<RandomKeys>,
    pub(super) mark_exhausted: bool,
    pub(super) emitter: Emitter,
}

/// The name of this layer in events.
pub(super) const NAME: &str = "retry-after-backoff";
/// As many attempts as the SDKs of model providers make.
const ATTEMPTS: u32 = 3;
/// A caller that waits rarely waits longer than a minute.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The size of a prompt of some hundred thousand tokens; requests with images may exceed it.
const REPLAY_LIMIT: usize = 2 * 1024 * 1024;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            policy: RetryPolicy {
                attempts: ATTEMPTS,
                backoff: Backoff::default(),
                max_retry_after: MAX_RETRY_AFTER,
                max_elapsed: None,
                non_idempotent: false,
            },
            budget: RetryBudget::default(),
            classifier: LayerClassifier::default(),
            entropy: Entropy::default(),
            replay_limit: REPLAY_LIMIT,
            memory: Memory::default(),
            attempt_header: None,
            keys: None,
            mark_exhausted: false,
            emitter: Emitter::default(),
        }
    }
}
