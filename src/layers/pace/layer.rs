use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::config::{Config, KeyBy, PaceRole, Peers};
use super::gate::PaceGate;
use super::service::Pace;
use super::shared::{PaceStats, Shared};
use crate::event::{Emitter, Observer};
use crate::policy::pace::Rate;
use crate::policy::verdict::{Classifier, Classify};
use crate::proto::rate_limit::Unit;
use crate::rt::layer_classifier::LayerClassifier;
use crate::rt::per_thread::PerThread;
use crate::store::pace::PacePeers;

/// Keeps calls within the rate limits of an upstream: a 429 pauses the calls that it applies to, and known rates are
/// never exceeded.
///
/// By default the layer limits nothing until the upstream answers 429. Then the calls with the same credential wait as
/// long as it asks. They restart one interval apart, at the rate at which they were served before, and faster as long as
/// they are served. With [`requests`](Self::requests) and [`tokens`](Self::tokens) the layer sends no call that would
/// exceed a limit; with [`learn`](Self::learn) it reads the limits from the headers of answers.
///
/// # When to use it, and when not
///
/// For every upstream with rate limits that more than one task calls: with retries alone every caller hits the same limit
/// again, and some providers answer that with a ban of minutes. For an upstream with a limit on concurrent calls, use
/// [`QueueLayer`](crate::QueueLayer). To limit your own callers, use [`per_caller`](Self::per_caller).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tokio::time::Instant;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{PaceLayer, Rate, Rejection, RejectionKind};
///
/// let upstream = service_fn(|_: Request<Full<Bytes>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("hello")))
/// });
/// // Sixty a minute: one a second. A call that would wait for more than two seconds is refused.
/// let layer = PaceLayer::new().requests(Rate::per_minute(60)).max_wait(Duration::from_secs(2));
/// let service = ServiceBuilder::new().layer(layer).service(upstream);
///
/// let start = Instant::now();
/// let call = || service.clone().oneshot(Request::new(Full::default()));
/// let (first, second, third, fourth) = tokio::join!(call(), call(), call(), call());
/// assert!([first, second, third].iter().all(|answer| answer.as_ref().unwrap().status() == 200));
/// assert_eq!(start.elapsed(), Duration::from_secs(2));
///
/// let refused = fourth.unwrap();
/// assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::Paced);
/// assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"3".parse().unwrap()));
/// # }
/// ```
///
/// # What a 429 does
///
/// - *With a hint* (`Retry-After` and similar, or the reset of an exhausted limit): all calls of its key wait that long,
///   at most for [`max_pause`](Self::max_pause). If the upstream asked for more, one call then finds out, and the others
///   wait for its head, at most 2 s. (With [shared](Self::share) pauses, one call of each process.)
/// - *Without a hint*: only the calls of the [tenant](crate::Tenant) that got it wait, 1 s at first and then twice as
///   long each time, until one of them passes. When a second tenant gets a 429 too, all wait. A tenant cannot stop the
///   others by provoking a 429.
/// - *The request alone exceeds the limit*: the classifier reports the request as the cause, and nothing waits.
///
/// # Several limits
///
/// A call is sent when all limits have room for it, and takes from all or from none. Calls go first come, first served,
/// tenants in turn. The layer reserves tokens before it sends a call, by its [`TokenEstimate`](crate::TokenEstimate), the
/// length of its body, and the usage of earlier answers, but for the answer at most what the request allows (feature
/// `llm`: `max_tokens` and similar, for a body in memory). When the answer ends, it settles the difference to the
/// reported usage (feature `llm`). An estimate never exceeds the limit itself; a body without a known length counts as 64
/// KiB. A call that was not sent returns its reservation, and a request that was not sent to its end its tokens, as far
/// as a [`CallBody`](crate::CallBody) shows that.
///
/// With [shared](Self::share) rates, no call gets a turn that is more than 1 s away: such calls wait in their process,
/// tenants in turn, and the first of them asks again. The longer it has been the first, the further away its turn may be,
/// so that no process overtakes another forever.
///
/// # Place in the stack
///
/// Inside retries, so that each attempt counts, and inside the layer that sets the upstream's credential; outside
/// [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), so that a wait here does not look like a slow upstream.
/// [`per_caller`](Self::per_caller) goes outside [`DedupLayer`](crate::DedupLayer): it counts the callers' requests.
///
/// All clones of one layer, and all services they make, share its limits.
///
/// # What happens when
///
/// - *There is no room within [`max_wait`](Self::max_wait), or before the call's [`Deadline`](crate::Deadline)*: an
///   immediate 429 that carries a [`Rejection`](crate::Rejection) of kind [`Paced`](crate::RejectionKind::Paced) (for
///   gRPC callers `RESOURCE_EXHAUSTED`), with the true wait in `Retry-After`. An outer
///   [`FallbackLayer`](crate::FallbackLayer) may ask another upstream; a breaker ignores it.
/// - *A caller leaves while it waits*: the others move up.
/// - *The upstream is not reached, or a layer inside refuses*: the call returns its reservation.
/// - *10,000 calls of a key wait*: the tenant with the most waiting calls makes room for a tenant with fewer: its last
///   call is refused.
/// - *More keys than [`max_keys`](Self::max_keys)*: the layer evicts keys that limit nothing at the moment; then, of
///   limits [per caller](Self::per_caller), keys of callers without a served call. If there are none, new keys share one
///   limit.
///
/// # Cancel safety
///
/// A call that is dropped while it waits leaves the line. A call that is dropped in flight has used its request, and the
/// tokens of its prompt and of the data read. For a limit [per caller](Self::per_caller) it is charged the whole
/// reservation for its answer, or 100 tokens per second if that is more, and at most what the request allowed, unless the
/// answer has ended with a reported usage: leaving early must not make an answer free.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// While nothing is limited: a hash of the credentials, a look-up, and no shared lock, clock or allocation. The first
/// key is found without any lock. With request
/// limits one short lock and one clock read; with token limits another lock, and the layer reads the passing body. A call
/// that waits is boxed. While calls wait, a task of each runtime in which they do has one timer for all of them.
#[derive(Clone, Debug)]
pub struct PaceLayer {
    shared: PerThread<Shared>,
    enabled: bool,
}

// === impl PaceLayer ===

impl PaceLayer {
    /// Limits nothing until the upstream answers 429, and then makes all calls with the same credential to the same host
    /// wait.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Config::new(PaceRole::Upstream), true)
    }

    /// Limits each caller, with your own limits: by [`Tenant`](crate::Tenant), or else by the credentials of the request.
    /// Requests without either share one limit.
    ///
    /// A caller may send its whole rate at once, and is refused beyond that ([`max_wait`](Self::max_wait) is zero).
    /// Answers report the rest in `RateLimit` and `RateLimit-Policy`. An upstream's 429 pauses nothing here.
    ///
    /// ```
    /// use tower_buttress::{PaceLayer, Rate};
    ///
    /// let limits = PaceLayer::per_caller()
    ///     .requests(Rate::per_minute(120))
    ///     .tokens(Rate::per_minute(50_000))
    ///     .concurrency(8);
    /// # let _ = limits;
    /// ```
    #[must_use]
    pub fn per_caller() -> Self {
        Self::with(Config::new(PaceRole::Callers), true)
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::new(PaceRole::Upstream), false)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Limits requests to this rate. May be called more than once, with a rate per second and one per day.
    #[must_use]
    pub fn requests(self, rate: Rate) -> Self {
        self.limit(Unit::Requests, rate)
    }

    /// Limits tokens, of prompts and answers together, to this rate.
    #[must_use]
    pub fn tokens(self, rate: Rate) -> Self {
        self.limit(Unit::Tokens, rate)
    }

    /// Limits tokens of prompts to this rate.
    #[must_use]
    pub fn input_tokens(self, rate: Rate) -> Self {
        self.limit(Unit::InputTokens, rate)
    }

    /// Limits tokens of answers to this rate.
    #[must_use]
    pub fn output_tokens(self, rate: Rate) -> Self {
        self.limit(Unit::OutputTokens, rate)
    }

    /// Limits concurrent calls, to the end of their bodies. Default: no limit.
    ///
    /// For one upstream, [`QueueLayer`](crate::QueueLayer) does more; this is one limit per key.
    #[must_use]
    pub fn concurrency(self, calls: u32) -> Self {
        self.change(|config| config.concurrency = Some(calls.max(1)))
    }

    /// Whether the layer reads limits from the headers of answers ([`proto::rate_limit`](crate::proto::rate_limit)).
    /// Default: no.
    ///
    /// A learned limit lets calls pass as long as answers report that units are left. Limits that you set follow the
    /// headers in any case: if answers report less than a call takes, because other clients use the limit too, the call
    /// waits until the set rate has brought as much.
    #[must_use]
    pub fn learn(self, learn: bool) -> Self {
        self.change(|config| config.learn = learn)
    }

    /// The longest pause after a 429. Default: 60 s. With zero, a 429 pauses nothing.
    #[must_use]
    pub fn max_pause(self, pause: Duration) -> Self {
        self.change(|config| config.max_pause = pause)
    }

    /// How long a call may wait. Default: 30 s; for [`per_caller`](Self::per_caller) 0.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.change(|config| config.max_wait = wait)
    }

    /// Sets the key of the limit that a request counts for. Default: one limit for each credential and host. Requests
    /// whose key is `None` share one limit.
    ///
    /// If an account has limits per model, use credential and model as the key. It is hashed, and shown nowhere.
    ///
    /// ```
    /// use tower_buttress::{PaceLayer, Tenant};
    ///
    /// let by_tenant = PaceLayer::per_caller().key(|parts| Some(parts.extensions.get::<Tenant>()?.as_str().into()));
    /// # let _ = by_tenant;
    /// ```
    #[must_use]
    pub fn key<F>(self, key: F) -> Self
    where
        F: Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync + 'static,
    {
        self.change(|config| config.key = Some(KeyBy(Arc::new(key))))
    }

    /// Limits each [model](crate::Model) separately, beside credential and host, as providers do. Callers can multiply a
    /// set rate by naming several models; a pause after a 429 is not affected. Default: all models share one limit.
    #[must_use]
    pub fn key_by_model(self) -> Self {
        self.change(|config| config.by_model = true)
    }

    /// The number of keys with limits of their own. The first key keeps its limit. Default: 1,024.
    #[must_use]
    pub fn max_keys(self, keys: u32) -> Self {
        self.change(|config| config.max_keys = usize::try_from(keys).unwrap_or(usize::MAX).max(1))
    }

    /// Sets the classifier, which decides which answers mean that the upstream is overloaded. Default:
    /// [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.change(|config| config.classifier = LayerClassifier::own(classifier))
    }

    /// Takes the classifier of the stack, if it has none of its own.
    pub(crate) fn or_classifier(self, of_stack: &Classifier) -> Self {
        self.shared.config.classifier.adopt(of_stack);
        self
    }

    /// The name of its gauges in the label `layer` (feature `metrics`). Default: `pace`, or `pace-per-caller`.
    #[must_use]
    pub fn name(self, name: &'static str) -> Self {
        self.change(|config| config.name = name)
    }

    /// Reports every pause and every refusal to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// Shares pauses with other processes: a 429 with a hint, or a 429 that two tenants got, pauses the calls with the
    /// same credential in all of them. If the peers share rates too, a call takes its turn among those of all processes
    /// before it is sent; while they are unreachable each process has its part of the rates. Otherwise rates apply to
    /// this process: give each process its part of them.
    ///
    /// [`per_caller`](Self::per_caller) shares the rates of a caller, never a pause; its concurrency limit applies to
    /// each process. This process does not know the rest of a shared rate: answers do not report it.
    ///
    /// `FleetPauses` and `FleetPace` in the crate `tower-buttress-redis` do so over Redis.
    #[must_use]
    pub fn share(self, peers: Arc<dyn PacePeers>) -> Self {
        self.change(|config| config.peers = Some(Peers(peers)))
    }

    /// Returns the number of waiting calls, and the pauses. A setter makes new limits: call it on the final layer.
    #[must_use]
    pub fn stats(&self) -> PaceStats {
        self.shared.stats()
    }

    fn limit(self, unit: Unit, rate: Rate) -> Self {
        self.change(|config| config.rates.push((unit, rate)))
    }

    /// Returns a layer with the same settings, and its own limits.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self::with(Config::clone(&self.shared.config), self.enabled)
    }

    fn with(config: Config, enabled: bool) -> Self {
        Self { shared: PerThread::new(Arc::new(Shared::new(config))), enabled }
    }

    fn change(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::clone(&self.shared.config);
        change(&mut config);
        Self::with(config, self.enabled)
    }
}

impl Default for PaceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for PaceLayer {
    type Service = Pace<S>;

    fn layer(&self, inner: S) -> Pace<S> {
        Pace::new(inner, self.enabled.then(|| PaceGate(self.shared.for_service())))
    }
}
