use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request};

use crate::call::{Attempt, Memory, NoRetry};
use crate::event::Emitter;
use crate::policy::backoff::Backoff;
use crate::policy::retry::{IDEMPOTENCY_KEY, RetryPolicy, is_idempotent};
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

impl Config {
    /// Whether a call with this request may be retried.
    pub(super) fn applies_to<B>(&self, request: &Request<B>) -> bool {
        self.enabled
            && self.policy.attempts > 1
            && request.extensions().get::<NoRetry>().is_none()
            // A tunnel follows its head, not a body that could be sent again.
            && request.method() != Method::CONNECT
    }

    /// Marks the request as the first attempt.
    pub(super) fn mark_first<B>(&self, request: &mut Request<B>) {
        if let Some(keys) = &self.keys {
            if !is_idempotent(request.method(), request.headers()) {
                if let Some(key) = keys.next() {
                    request.headers_mut().insert(IDEMPOTENCY_KEY, key);
                }
            }
        }
        if let Some(name) = &self.attempt_header {
            request.headers_mut().insert(name, HeaderValue::from(1));
        }
        // An outer layer's: here it is the first.
        if let Some(attempt) = request.extensions_mut().get_mut::<Attempt>() {
            *attempt = Attempt(1);
        }
    }
}

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
