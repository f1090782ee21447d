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
use crate::rt::per_thread::PerThread;
use crate::store::pace::PacePeers;

/// Keeps calls within the rate limits of an upstream: a 429 pauses all calls that it speaks of, and rates that are known are
/// never overrun.
///
/// By default nothing is limited until the upstream answers 429. Then the calls with the same credential wait for as long as
/// it says, and start again one interval apart, at the rate at which they were served before, and then faster as long as they
/// are served. With [`requests`](Self::requests)
/// and [`tokens`](Self::tokens) no call is sent that would overrun a limit, and with [`learn`](Self::learn) the limits are
/// taken from the headers of the answers.
///
/// # When to use it, and when not
///
/// For every upstream that limits rates and is called by more than one task: retries alone send every caller into the same
/// limit again, and some providers answer that with a ban of minutes. For an upstream that bears a limited number of calls at a
/// time, use [`QueueLayer`](crate::QueueLayer). To limit your own callers, use [`per_caller`](Self::per_caller).
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
/// - *With a hint* (`Retry-After` and its kin, or the reset of a limit of which nothing is left): all calls of its key wait
///   for that long, at most for [`max_pause`](Self::max_pause). Where the upstream asked for more than that, one call then
///   finds out, and the others wait for its head, for two seconds at most. (Where pauses are [shared](Self::share), one call of
///   each process.)
/// - *Without a hint*: only the calls of the [tenant](crate::Tenant) that met it wait, one second at first and then twice as
///   long each time, until one of them passes. When a second tenant meets one too, all wait. A tenant cannot stop the others
///   by provoking a 429.
/// - *Where the request itself asks for more than the limit* the classifier says that it is the request's matter, and nothing
///   waits.
///
/// # Several limits
///
/// A call is sent when all limits have room for it, and takes from all or from none. It goes first come, first served,
/// tenants in turn. Tokens are reserved before a call is sent, by its [`TokenEstimate`](crate::TokenEstimate), the length of
/// its body, and what answers were like before, but no more for its answer than the request allows (feature `llm`: `max_tokens`
/// and its kin, where the body is in memory); the difference to what the answer says that it used (feature `llm`) is
/// settled when it ends. A guess is never larger than the limit itself, and a body that does not say how long it is counts as
/// one of 64 KiB. What was not sent is given back, and the tokens of a request that was not sent to its end, as far as a
/// [`CallBody`](crate::CallBody) tells so.
///
/// Where rates are [shared](Self::share), no call is given a turn that is more than a second away: those that would be wait in
/// their process, tenants in turn, and the first of them asks again. The longer it has been the first, the further away its turn
/// may be, so that no process passes another one by for ever.
///
/// # Place in the stack
///
/// Inside retries, so that each attempt pays, and inside what sets the upstream's credential; outside
/// [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), so that what waits here is not taken for a slow upstream.
/// [`per_caller`](Self::per_caller) goes outside [`DedupLayer`](crate::DedupLayer): it counts what callers ask for.
///
/// The limits live in the layer: all clones of one layer, and all services they make, share them.
///
/// # What happens when
///
/// - *There is no room within [`max_wait`](Self::max_wait), or before the call's [`Deadline`](crate::Deadline)*: a 429 that
///   carries a [`Rejection`](crate::Rejection) of kind [`Paced`](crate::RejectionKind::Paced) (for gRPC callers
///   `RESOURCE_EXHAUSTED`), at once, with the true wait in `Retry-After`. To an outer
///   [`FallbackLayer`](crate::FallbackLayer) it says that another upstream may help, and to a breaker nothing.
/// - *A caller leaves while it waits*: the others move up.
/// - *The upstream is not reached, or a layer inside refuses*: what the call took is given back.
/// - *10,000 calls of a key wait*: the tenant of which most do makes room for one of which fewer do: its last call is refused.
/// - *More keys than [`max_keys`](Self::max_keys)*: those that limit nothing at the moment are forgotten, then, of limits
///   [per caller](Self::per_caller), those of callers of whom no call was served yet; while there are none, new ones share one limit.
///
/// # Cancel safety
///
/// A call that is dropped while it waits leaves the line without a trace. One that is dropped while it is under way has used
/// its request, and the tokens of its prompt and of what was read; of a limit [per caller](Self::per_caller) all that was
/// reserved for its answer, or a hundred tokens for each second if that is more, and no more than the request allowed, unless the
/// answer has ended and said what it used: its caller is not to get it for nothing.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// While nothing is limited: a hash of the credentials, a look-up, and no lock that threads share, clock or allocation. With limits of
/// requests one short lock and one reading of the clock; with limits of tokens another lock, and the body is read as it goes by. A call
/// that waits is boxed.
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

    /// Limits of your own, for each caller: by [`Tenant`](crate::Tenant), or else by the credentials of the request. Requests
    /// without either share one limit.
    ///
    /// A caller may send at once what it may send in the time of its rate, and is refused beyond that ([`max_wait`](Self::max_wait)
    /// is zero). Answers say in `RateLimit` and `RateLimit-Policy` what is left. An upstream's 429 pauses nothing here.
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

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::new(PaceRole::Upstream), false)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Limits requests to this rate. May be given more than once, a rate per second and one per day.
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

    /// Limits the calls at a time, to the end of their bodies. Default: any number.
    ///
    /// For one upstream, [`QueueLayer`](crate::QueueLayer) does more; this is one limit per key.
    #[must_use]
    pub fn concurrency(self, calls: u32) -> Self {
        self.change(|config| config.concurrency = Some(calls.max(1)))
    }

    /// Whether limits are taken from the headers of answers ([`proto::rate_limit`](crate::proto::rate_limit)). Default: no.
    ///
    /// A limit that is learned lets calls pass as long as the answers say that something of it is left. Limits that were set
    /// follow the headers in any case: where answers say that less is left than a call takes, because other clients use the limit
    /// too, it waits until the rate that was set has brought as much.
    #[must_use]
    pub fn learn(self, learn: bool) -> Self {
        self.change(|config| config.learn = learn)
    }

    /// For how long a 429 pauses at most. Default: 60 s. With zero, a 429 pauses nothing.
    #[must_use]
    pub fn max_pause(self, pause: Duration) -> Self {
        self.change(|config| config.max_pause = pause)
    }

    /// How long a call may wait. Default: 30 s; [`per_caller`](Self::per_caller), not at all.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.change(|config| config.max_wait = wait)
    }

    /// Which limit a request counts for. Default: one for each credential and host. Requests for which it is `None` share
    /// one.
    ///
    /// Where an account's limits are those of its models, let the key be credential and model. It is hashed, and shown
    /// nowhere.
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

    /// Limits each [model](crate::Model) by itself, beside credential and host, as providers do. Callers who name models can
    /// thereby multiply a rate that was set; a pause on a 429 is not affected. Default: all models share one limit.
    #[must_use]
    pub fn key_by_model(self) -> Self {
        self.change(|config| config.by_model = true)
    }

    /// How many keys have limits of their own. Default: 1,024.
    #[must_use]
    pub fn max_keys(self, keys: u32) -> Self {
        self.change(|config| config.max_keys = usize::try_from(keys).unwrap_or(usize::MAX).max(1))
    }

    /// Which answers say that the upstream has too much. Default: [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.change(|config| config.classifier = Classifier::new(classifier))
    }

    /// What its gauges are called by in the label `layer` (feature `metrics`). Default: `pace`, or `pace-per-caller`.
    #[must_use]
    pub fn name(self, name: &'static str) -> Self {
        self.change(|config| config.name = name)
    }

    /// Tells `observer` of every pause and every refusal.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// Shares pauses with other processes: a 429 that says how long to wait, or that two tenants met, pauses the calls with
    /// the same credential in all of them. Where the peers share rates too, a call takes its turn among those of all processes
    /// before it is sent, and while they cannot be asked each process has its part of the rates. Else rates are those of this
    /// process: give each its part of them.
    ///
    /// [`per_caller`](Self::per_caller) shares the rates of a caller, and never a pause; how many calls it has under way at a
    /// time is a matter of each process. What is left of a rate that is shared is not known here: answers do not say it.
    ///
    /// `FleetPauses` and `FleetPace` in the crate `tower-buttress-redis` do so over Redis.
    #[must_use]
    pub fn share(self, peers: Arc<dyn PacePeers>) -> Self {
        self.change(|config| config.peers = Some(Peers(peers)))
    }

    /// How many calls wait, and what is paused. A setter makes new limits: ask when all is set.
    #[must_use]
    pub fn stats(&self) -> PaceStats {
        self.shared.stats()
    }

    fn limit(self, unit: Unit, rate: Rate) -> Self {
        self.change(|config| config.rates.push((unit, rate)))
    }

    /// A layer with the same settings, and limits of its own.
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
