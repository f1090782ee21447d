use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tower_layer::Layer;

use super::config::Config;
use super::service::RetryAfterBackoff;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::backoff::Jitter;
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::entropy::Entropy;
use crate::rt::layer_classifier::LayerClassifier;
use crate::rt::random_key::RandomKeys;
use crate::rt::retry_budget::RetryBudget;
use crate::rt::settings::LayerSettings;

/// Retries failed attempts, and waits at least as long as the upstream asked.
///
/// A 429 that is retried at once makes the rate limit worse, and three attempts that ignore `Retry-After: 60` fail within
/// a second. So the layer obeys a hint of the server (`Retry-After`, `retry-after-ms`, `x-ms-retry-after-ms`): the next
/// attempt starts after 1 to 1.5 times that wait. If a hint is longer than [`max_retry_after`](Self::max_retry_after), or
/// than the rest of the call's deadline, no attempt can succeed in time, and the layer returns the answer *now*, its
/// header intact. Without a hint, waits grow exponentially with full jitter: 500 ms at first, 20 s at most.
///
/// # When to use it, and when not
///
/// Around an upstream that fails for seconds: rate limits, overload, broken connections. If it may be down for minutes,
/// add a [`FallbackLayer`](crate::FallbackLayer). Do not put one retry around another, nor around an SDK that retries by
/// itself: three times three attempts are nine.
///
/// Unlike `tower::retry` it knows HTTP: what an answer means, which requests may be sent twice, how to send a streamed
/// body twice, and what the server asked for.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{Attempt, Attempts, CallBody, RetryAfterBackoffLayer};
///
/// // An upstream that is overloaded at first, and says for how long.
/// let upstream = service_fn(|request: Request<CallBody>| async move {
///     if Attempt::of(&request) == Attempt(1) {
///         let busy = Response::builder().status(429).header("retry-after", "2").body("busy".into());
///         return Ok::<Response<Full<Bytes>>, Infallible>(busy.unwrap());
///     }
///     Ok(Response::new(request.into_body().collect().await.unwrap().to_bytes().into()))
/// });
///
/// let service = ServiceBuilder::new().layer(RetryAfterBackoffLayer::new()).service(upstream);
///
/// let start = tokio::time::Instant::now();
/// let request = Request::post("/chat").body(Full::from("hello")).unwrap();
/// let response = service.oneshot(request).await.unwrap();
///
/// assert_eq!(response.status(), 200);
/// assert_eq!(Attempts::of(&response), Attempts(2));
/// assert!(start.elapsed() >= Duration::from_secs(2));
/// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
/// # }
/// ```
///
/// # Place in the stack
///
/// Outside all layers that are per attempt: breaker, idle and first-byte timeouts. Inside
/// [`DeadlineLayer`](crate::DeadlineLayer), whose deadline bounds the waits too, and inside a fallback, which sees the
/// final result of all attempts.
///
/// # What is retried
///
/// Failures that the [classifier](Self::classifier) marks as [`Retry`](crate::verdict::NextStep::Retry), if the request
/// may be executed twice: idempotent methods, requests with an `Idempotency-Key`, and requests that were provably not
/// executed (no connection, 421, 425, 429, a 503 with a `Retry-After`). The upstream may have executed a `POST` that
/// ended in a 500, a 502, another 503, a 504 or a broken connection: the layer retries it only with
/// [`retry_non_idempotent`](Self::retry_non_idempotent).
///
/// The layer records the request body while it streams, up to [`replay_limit`](Self::replay_limit); its `Bytes` are
/// shared, not copied. All calls share a budget, which bounds the load that retries add: see [`RetryBudget`].
///
/// # What happens when
///
/// - *Attempts, time or budget are spent, the wait would be too long, the request must not be sent again, or only another
///   upstream could serve it*: the layer returns the last answer (or error) unchanged, with an
///   [`Event::NotRetried`](crate::Event::NotRetried) that says why. To stop the caller's own SDK from repeating these
///   attempts, see [`mark_exhausted`](Self::mark_exhausted) and [`RetryReport`](crate::RetryReport).
/// - *A failed answer is retried*: while it waits, the layer reads up to 64 KiB of the answer's body for at most 1 s, so
///   that the next attempt can use the connection. Then it drops the body.
/// - *The request body is larger than the limit*: it streams on untouched, and the call is not retried.
/// - *The answer comes before the request body was sent*: the call is not retried, since it is unknown how much of the
///   body the upstream has read. If the upstream has read nothing, it is retried.
/// - *The caller drops the future*: the layer drops the attempt, the wait and the recording. Budget taken for an attempt
///   that was never made stays spent.
/// - *The caller drops the body*: it drops the inner service's body, which the layer returns unchanged.
/// - *HEAD, 204, 304, trailers*: as everything else. The layer sends trailers of the request again too.
/// - *An upgrade*: a 101 is returned; a failed handshake is retried like any `GET`. CONNECT passes untouched.
/// - *The request carries [`NoRetry`](crate::NoRetry)*: it passes untouched.
///
/// # Cancel safety
///
/// Dropping the future frees everything at any point: the attempt, or the wait with the rest of the failed answer.
///
/// # Errors
///
/// The service's own, unchanged: that of the last attempt. Its type must be an [`Error`](std::error::Error), since the
/// layer searches its sources for causes. For a [`BoxError`](crate::error::BoxError), which is not, put
/// `.map_err(error::BoxedError::new)` between.
///
/// # Cost
///
/// A call whose first attempt succeeds: a copy of the request's head, one allocation for a body that streams, a count in
/// the budget. A generated key is two random numbers and one allocation. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct RetryAfterBackoffLayer {
    config: LayerSettings<Config>,
}

// === impl RetryAfterBackoffLayer ===

impl RetryAfterBackoffLayer {
    /// Makes 3 attempts, waits at most 60 s for a hint, and keeps 2 MiB of request body, with its own [`RetryBudget`].
    #[must_use]
    pub fn new() -> Self {
        Self { config: LayerSettings::new(Config::default()) }
    }

    /// Settings for model providers: [`retry_non_idempotent`](Self::retry_non_idempotent), since a lost generation costs
    /// more than one that is paid twice (the providers' SDKs do the same),
    /// [`generate_idempotency_key`](Self::generate_idempotency_key), so that a provider that supports keys charges once,
    /// and [`mark_exhausted`](Self::mark_exhausted).
    #[must_use]
    pub fn llm() -> Self {
        Self::new().retry_non_idempotent(true).generate_idempotency_key(true).mark_exhausted(true)
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        let mut layer = Self::new();
        layer.config.enabled = false;
        layer
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// The number of attempts of a call, the first included; 0 means 1. Default: 3.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.config.policy.attempts = attempts.max(1);
        self
    }

    /// The time limit for starting attempts: none starts later than this after the first. Default: no limit.
    ///
    /// It does not end a running attempt; for that put a [`DeadlineLayer`](crate::DeadlineLayer) around this layer, whose
    /// deadline also bounds the waits.
    #[must_use]
    pub fn max_elapsed(mut self, limit: Duration) -> Self {
        self.config.policy.max_elapsed = Some(limit);
        self
    }

    /// The wait before the second attempt, if the server does not name one; it doubles from attempt to attempt. Default:
    /// 500 ms.
    #[must_use]
    pub fn backoff_base(mut self, base: Duration) -> Self {
        self.config.policy.backoff.base = base;
        self
    }

    /// The longest such wait. Default: 20 s.
    #[must_use]
    pub fn backoff_cap(mut self, cap: Duration) -> Self {
        self.config.policy.backoff.cap = cap;
        self
    }

    /// How such waits are randomised. Default: [`Jitter::Full`].
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.config.policy.backoff.jitter = jitter;
        self
    }

    /// The seed of the waits' random numbers, for reproducible tests. All services of this layer draw from one sequence,
    /// each number once.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.entropy = Entropy::seeded(seed);
        self
    }

    /// The longest `Retry-After` that the layer waits for. It returns an answer that asks for more at once. Default: 60
    /// s.
    #[must_use]
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.config.policy.max_retry_after = longest;
        self
    }

    /// The budget that bounds the retries of all calls. Layers with the same upstream should share clones of one budget.
    /// Default: its own, of 20 % of the calls and ten retries a second.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.config.budget = budget;
        self
    }

    /// The number of bytes of a request body that are kept for the next attempt. A larger body is sent once. Default: 2
    /// MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// The memory that counts the bodies of all calls together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Also retries requests that may have been executed and are not known to be idempotent: a `POST` after a 500, or
    /// after its connection broke. Default: no.
    #[must_use]
    pub fn retry_non_idempotent(mut self, retry: bool) -> Self {
        self.config.policy.non_idempotent = retry;
        self
    }

    /// Adds an `Idempotency-Key` to calls that are not idempotent and have none, the same for all attempts (a random
    /// UUID). Only for upstreams that support such keys: the call then counts as repeatable. Default: no.
    #[must_use]
    pub fn generate_idempotency_key(mut self, generate: bool) -> Self {
        self.config.keys = generate.then(RandomKeys::default);
        self
    }

    /// Adds `x-should-retry: false` to an answer that ends the attempts, so that the caller's own SDK does not multiply
    /// them. Default: no.
    ///
    /// Every such answer has it, the upstream's and the refusals of layers inside (a first-byte timeout): when the
    /// attempts or the budget are spent, when the upstream asked for a wait that SDKs do not obey (more than 120 s), when
    /// only another upstream could help, and on any failure after a retry. An answer without a retry does not have it if
    /// the caller can do better: after a `Retry-After` that it can wait for, after a failed `POST` that only the caller
    /// knows to be repeatable, or when a circuit is open and says when it closes. For a call that ended in an error, a
    /// [`RetryReport`](crate::RetryReport) says the same.
    #[must_use]
    pub fn mark_exhausted(mut self, mark: bool) -> Self {
        self.config.mark_exhausted = mark;
        self
    }

    /// Whether the layer marks answers, and retries at all.
    pub(crate) fn marks_exhausted(&self) -> bool {
        self.config.enabled && self.config.mark_exhausted && self.config.policy.attempts > 1
    }

    /// Writes the number of the attempt, from 1, into this header of each request. Default: none.
    #[must_use]
    pub fn attempt_header(mut self, name: HeaderName) -> Self {
        self.config.attempt_header = Some(name);
        self
    }

    /// Sets the classifier, which judges answers. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.config.classifier = LayerClassifier::own(classifier);
        self
    }

    /// Takes the classifier of the stack, if it has none of its own.
    pub(crate) fn or_classifier(mut self, of_stack: &Classifier) -> Self {
        if !of_stack.is_standard() {
            // For the services that are made from now on.
            let settings = &mut *self.config;
            settings.classifier.adopt(of_stack);
        }
        self
    }

    /// Reports every retry, and every failed attempt without another, to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.emitter = Emitter::to(observer);
        self
    }
}

impl Default for RetryAfterBackoffLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RetryAfterBackoffLayer {
    type Service = RetryAfterBackoff<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RetryAfterBackoff::new(inner, self.config.for_service())
    }
}
