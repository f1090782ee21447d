use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tower_layer::Layer;

use super::config::Config;
use super::key::Keys;
use super::service::RetryAfterBackoff;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::backoff::Jitter;
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::entropy::Entropy;
use crate::rt::retry_budget::RetryBudget;
use crate::rt::settings::Settings;

/// Makes another attempt when the upstream allows it, and no earlier than it asked.
///
/// A 429 that is retried at once makes the rate limit worse, and a retry that ignores `Retry-After: 60` is three
/// failures in a second. So a hint from the server (`Retry-After`, `retry-after-ms`, `x-ms-retry-after-ms`) is obeyed:
/// the next attempt starts between that wait and half as long again. If a hint is longer than
/// [`max_retry_after`](Self::max_retry_after), or than what is left of the call's deadline, no attempt in reach can
/// succeed, and the answer is returned *now*, its header intact. Without a hint, waits grow exponentially with full
/// jitter: 500 ms at first, 20 s at most.
///
/// # When to use it, and when not
///
/// Around an upstream that fails for seconds: rate limits, overload, connections that break. Around one that is down for
/// minutes, put a [`FallbackLayer`](crate::FallbackLayer) too. Do not put one retry around another, nor around an SDK that
/// retries by itself: three times three attempts are nine.
///
/// It differs from `tower::retry` in that it knows HTTP: what an answer means, what may be sent twice, how to send a
/// streamed body twice, and what the server asked for.
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
/// Outside of everything that is per attempt: breaker, idle and first-byte timeouts. Inside
/// [`DeadlineLayer`](crate::DeadlineLayer), whose deadline bounds the waits too, and inside a fallback, which sees what
/// came of all attempts.
///
/// # What is retried
///
/// What the [classifier](Self::classifier) calls [`Retry`](crate::verdict::NextStep::Retry), if it may be executed twice:
/// idempotent methods, requests with an `Idempotency-Key`, and requests that were provably not executed (no connection,
/// 421, 425, 429, a 503 with a `Retry-After`). A `POST` after a 500, a 502, another 503, a 504 or a broken connection may
/// have been executed, and is retried only with [`retry_non_idempotent`](Self::retry_non_idempotent).
///
/// The request body is recorded as it streams, up to [`replay_limit`](Self::replay_limit); its `Bytes` are shared, not
/// copied. A budget, shared by all calls, bounds the load that retries add: see [`RetryBudget`].
///
/// # What happens when
///
/// - *Attempts, time or budget are spent, the wait would be too long, the request must not be sent again, or only another
///   upstream could serve it*: the last answer (or error) is returned as it came, with an
///   [`Event::NotRetried`](crate::Event::NotRetried) that says why. Where more attempts by the caller's own SDK would only
///   repeat these, it can say so: see [`mark_exhausted`](Self::mark_exhausted) and [`RetryReport`](crate::RetryReport).
/// - *A failed answer is retried*: its body is read while waiting, so that its connection can serve the next attempt: 64 KiB
///   and one second at most. Then it is dropped.
/// - *The request body is larger than the limit*: it streams on untouched, and the call is not retried.
/// - *The answer comes before the request body was sent*: it is not retried, since it is unknown how much of it the upstream
///   has read. A body of which nothing was read yet does not count.
/// - *The caller drops the future*: the attempt, the wait and the recording are dropped with it. What the budget gave
///   for an attempt that was never made stays spent.
/// - *The caller drops the body*: the inner service's body is returned as it is; nothing of this layer is in it.
/// - *HEAD, 204, 304, trailers*: as everything else. Trailers of the request are sent again too.
/// - *An upgrade*: a 101 is returned; a handshake that failed is retried like any `GET`. CONNECT passes untouched.
/// - *The request carries [`NoRetry`](crate::NoRetry)*: it passes untouched.
///
/// # Cancel safety
///
/// Dropping the future frees everything at any point: the attempt, or the wait with what is left of the failed answer.
///
/// # Errors
///
/// The service's own, unchanged: the one of the last attempt. Its type must be an [`Error`](std::error::Error), since
/// causes are looked for among its sources. A [`BoxError`](crate::error::BoxError) is not one: put
/// `.map_err(error::BoxedError::new)` between.
///
/// # Cost
///
/// A call whose first attempt succeeds: a copy of the request's head, one allocation for a body that streams, a count in
/// the budget. A generated key is two random numbers and one allocation. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct RetryAfterBackoffLayer {
    config: Settings<Config>,
}

// === impl RetryAfterBackoffLayer ===

impl RetryAfterBackoffLayer {
    /// Three attempts, at most 60 s for a hint, 2 MiB of request body, and a [`RetryBudget`] of its own.
    #[must_use]
    pub fn new() -> Self {
        Self { config: Settings::new(Config::default()) }
    }

    /// For calls to model providers: with [`retry_non_idempotent`](Self::retry_non_idempotent), since a generation that is
    /// lost costs more than one that is paid twice (their SDKs do the same),
    /// [`generate_idempotency_key`](Self::generate_idempotency_key), so that a provider that knows keys charges once,
    /// and [`mark_exhausted`](Self::mark_exhausted).
    #[must_use]
    pub fn llm() -> Self {
        Self::new().retry_non_idempotent(true).generate_idempotency_key(true).mark_exhausted(true)
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        let mut layer = Self::new();
        layer.config.enabled = false;
        layer
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// How many attempts a call may take in all, the first included; 0 is taken for 1. Default: 3.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.config.policy.attempts = attempts.max(1);
        self
    }

    /// The time for all attempts of a call: no attempt starts later than this after the first. Default: no limit.
    ///
    /// It ends no attempt that is under way; for that put a [`DeadlineLayer`](crate::DeadlineLayer) around this one, whose
    /// deadline also bounds the waits.
    #[must_use]
    pub fn max_elapsed(mut self, limit: Duration) -> Self {
        self.config.policy.max_elapsed = Some(limit);
        self
    }

    /// The wait before the second attempt, where the server does not say; it doubles from attempt to attempt. Default:
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

    /// How such waits are spread. Default: [`Jitter::Full`].
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.config.policy.backoff.jitter = jitter;
        self
    }

    /// The seed of the waits' random numbers, for a test that needs the same waits again. All services that this layer
    /// makes draw from one sequence, and no two draw the same.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.entropy = Entropy::seeded(seed);
        self
    }

    /// The longest `Retry-After` that is waited for. An answer that asks for more is returned at once. Default: 60 s.
    #[must_use]
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.config.policy.max_retry_after = longest;
        self
    }

    /// The budget that bounds the retries of all calls. Give layers that talk to the same upstream clones of one. Default:
    /// one of its own, of 20 % of the calls and ten a second.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.config.budget = budget;
        self
    }

    /// How much of a request body is kept for the next attempt. A body that is larger is sent once. Default: 2 MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// The memory in which the bodies of all calls are counted together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Also retries what may have been executed and is not known to be idempotent: a `POST` that was answered with 500, or
    /// whose connection broke. Default: no.
    #[must_use]
    pub fn retry_non_idempotent(mut self, retry: bool) -> Self {
        self.config.policy.non_idempotent = retry;
        self
    }

    /// Gives calls that are not idempotent and have no `Idempotency-Key` one, the same for all attempts (a random UUID).
    /// Only for upstreams that know such keys: the call counts as repeatable from then on. Default: no.
    #[must_use]
    pub fn generate_idempotency_key(mut self, generate: bool) -> Self {
        self.config.keys = generate.then(Keys::default);
        self
    }

    /// Adds `x-should-retry: false` to an answer that ends the attempts, so that the caller's own SDK does not multiply
    /// them. Default: no.
    ///
    /// It stands on every such answer, the upstream's and the refusals of layers inside (a first-byte timeout): when the
    /// attempts or the budget are spent, when the upstream asked for a wait that SDKs do not obey (more than 120 s), when
    /// only another upstream could help, and on whatever failure followed a retry. It does not stand where nothing was
    /// tried again and the caller can do better: after a `Retry-After` that it can wait for, after a failed `POST` that
    /// only the caller knows to be repeatable, or when a circuit is open and says when it closes. For a call that ended in
    /// an error, a [`RetryReport`](crate::RetryReport) says the same.
    #[must_use]
    pub fn mark_exhausted(mut self, mark: bool) -> Self {
        self.config.mark_exhausted = mark;
        self
    }

    /// Whether it does, and tries again at all.
    pub(crate) fn marks_exhausted(&self) -> bool {
        self.config.enabled && self.config.mark_exhausted && self.config.policy.attempts > 1
    }

    /// Writes the number of the attempt, from 1, into this header of each request. Default: none.
    #[must_use]
    pub fn attempt_header(mut self, name: HeaderName) -> Self {
        self.config.attempt_header = Some(name);
        self
    }

    /// The classifier, which says what an answer means. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.config.classifier = Classifier::new(classifier);
        self
    }

    /// Tells `observer` of every retry, and of every attempt that failed and was not followed by another.
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
