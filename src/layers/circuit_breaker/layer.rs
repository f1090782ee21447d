use std::borrow::Cow;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use tower_layer::Layer;

use super::breaker_set::{BreakerSet, Config, Key};
use super::classification::SlowCallBy;
use super::handle::CircuitBreakerHandle;
use super::health::HealthProbeLayer;
use super::service::CircuitBreaker;
use crate::error::InvalidConfig;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::policy::window::CircuitWindow;

/// Answers at once, with a 503, for an upstream that has been failing, and finds out by one call when it is back.
///
/// While the circuit is *closed*, calls pass and are counted. When too many fail it *opens*: calls are refused, with the
/// time until the next try in `Retry-After`. When that time is over it is *half-open*: one call, the probe, passes; if
/// it succeeds the circuit closes, if it fails the circuit opens for twice as long.
///
/// A call is over when its response *body* is over. An upstream that answers `200` and then drops its streams is down,
/// and here that counts. A caller who goes away says nothing about the upstream, and counts as nothing.
///
/// # When to use it, and when not
///
/// Around an upstream that many callers share, above all with a [fallback](crate::FallbackLayer) around it: then nobody
/// waits for what is known to fail. With few calls and no fallback it only exchanges one error for another.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{CircuitBreakerLayer, CircuitState, Rejection, RejectionKind};
///
/// // An upstream that is down for seven seconds.
/// let start = tokio::time::Instant::now();
/// let upstream = service_fn(move |_: Request<Empty<Bytes>>| async move {
///     let down = start.elapsed() < Duration::from_secs(7);
///     let status = if down { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
///     Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
/// });
///
/// let breaker = CircuitBreakerLayer::new();
/// let mut service = ServiceBuilder::new().layer(breaker.clone()).service(upstream);
/// let mut get = async || service.ready().await.unwrap().call(Request::new(Empty::new())).await.unwrap();
///
/// for _ in 0..5 {
///     assert_eq!(get().await.status(), 502);
/// }
/// assert_eq!(breaker.handle().state(), CircuitState::Open);
/// let refused = get().await;
/// assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::CircuitOpen);
/// assert!(refused.headers().contains_key("retry-after"));
///
/// // Half a second of jitter at most, and the next call finds out.
/// tokio::time::advance(Duration::from_millis(7_500)).await;
/// assert_eq!(get().await.status(), 200);
/// assert_eq!(breaker.handle().state(), CircuitState::Closed);
/// # }
/// ```
///
/// # What counts
///
/// The [classifier](crate::verdict) says what an answer, an error, or the trailers at the end say about the upstream:
/// *good*, *bad* (5xx, no connection, a body that broke off), *throttled* (429), or nothing. The circuit opens when
///
/// - in the [`window`](Self::window) there are at least [`min_calls`](Self::min_calls), and the part of them that were
///   bad or throttled reaches [`failure_ratio`](Self::failure_ratio), or the part that were slow reaches that of
///   [`slow_calls`](Self::slow_calls); or
/// - [`consecutive_failures`](Self::consecutive_failures) came in a row, and the window holds less than the minimum, or
///   nothing succeeded for a second. A throttled call neither ends nor lengthens the run.
///
/// All thresholds are reached by being equal to them. With a minimum of `u32::MAX` calls in a window of time only the run
/// counts.
///
/// A success is counted without a lock, in a place that only a few threads share, and everything else brings those in
/// first. So the circuit decides on every outcome up to that moment, as if they had come one by one; only a success that
/// ends at the very moment at which a tenth of the window does may be counted in the next.
///
/// # Place in the stack
///
/// Inside retries and fallbacks, so that each attempt is counted and refused; outside the timeouts, whose refusals are
/// failures of the upstream. A [`DeadlineLayer`](crate::DeadlineLayer) belongs outside: a caller's short deadline then
/// ends the call without counting.
///
/// The breaker lives in the layer: all clones of one layer, and all services they make, share it. On an axum router,
/// `.layer(breaker.clone())` on many routes is one breaker.
///
/// # What happens when
///
/// - *The circuit is open*: a 503 that carries a [`Rejection`](crate::Rejection) (for gRPC callers `UNAVAILABLE`), without
///   asking the inner service whether it is ready. Who waited for its readiness already waits until it is ready.
/// - *The caller drops the future or the body*: neutral, and a probe frees its place. A body of which all was handed on,
///   to the last byte of a known length or to the trailers, has ended, whether or not it was asked for more. Of any other
///   only its own end tells: a reader of events that leaves at `[DONE]`, and does not read on to the end, has gone away.
/// - *The head says it all* (a failure, or no body on the wire, as after `HEAD`): counted at the head.
/// - *The inner future or body panics*: counted as a failure, and passed on.
/// - *The first data of a probe*: settles it. How its body ends counts in the state that it led to.
/// - *The upstream lets a probe wait* beyond [`probe_timeout`](Self::probe_timeout): the next call opens the circuit
///   again. If it is the probe's own consumer who does not poll, the next call takes its place, and it counts as nothing.
/// - *`Retry-After` on a failure*: the circuit stays open for at least so long, at most for the longest open time.
/// - *Trailers*: passed on, and shown to the classifier. *Upgrades*: successes at the head.
///
/// # Cancel safety
///
/// Dropping the future drops the call, and frees what it held.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// A call through a closed circuit: one reading of the clock, four atomic operations in memory that (up to sixteen)
/// threads do not share, and no allocation or lock, unless it fails or is the first in a tenth of the window. A refusal:
/// one reading of the clock, and the response. With [keys](Self::key) add the look-up. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer {
    breakers: Arc<BreakerSet>,
    enabled: bool,
}

// === impl CircuitBreakerLayer ===

impl CircuitBreakerLayer {
    /// A breaker that opens when half of at least ten calls in a minute failed, or five in a row, for five seconds at
    /// first and five minutes at most.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Config::default(), true)
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::default(), false)
    }

    /// What is remembered. Default: [`CircuitWindow::Time`] of 60 s.
    ///
    /// # Errors
    ///
    /// If a time is too short to be divided by ten: less than 10 ms.
    pub fn window(self, window: CircuitWindow) -> Result<Self, InvalidConfig> {
        if matches!(window, CircuitWindow::Time(time) if time < Duration::from_millis(10)) {
            return Err(InvalidConfig::new("window", "must be at least ten milliseconds"));
        }
        Ok(self.change(|config| config.settings.window = window))
    }

    /// How many calls the window must hold before their ratios mean anything. Default: 10.
    ///
    /// More than a [window of calls](CircuitWindow::Calls) can hold is as many as it can.
    #[must_use]
    pub fn min_calls(self, calls: NonZeroU32) -> Self {
        self.change(|config| config.settings.min_calls = calls)
    }

    /// The part of failed calls that opens the circuit. Default: 0.5.
    ///
    /// # Errors
    ///
    /// If it does not lie above 0 and at or below 1.
    pub fn failure_ratio(self, ratio: f64) -> Result<Self, InvalidConfig> {
        check_ratio("failure_ratio", ratio)?;
        Ok(self.change(|config| config.settings.failure_ratio = ratio))
    }

    /// Calls that take longer than `after` are slow, and open the circuit when they are this part of all calls. Off by
    /// default. Then a slow probe has failed.
    ///
    /// # Errors
    ///
    /// If the ratio does not lie above 0 and at or below 1.
    pub fn slow_calls(self, after: Duration, ratio: f64) -> Result<Self, InvalidConfig> {
        check_ratio("slow_calls", ratio)?;
        Ok(self.change(|config| {
            config.settings.slow_ratio = Some(ratio);
            config.judge.slow_after = Some(after);
        }))
    }

    /// What makes a call slow. Default: [`SlowCallBy::FirstData`].
    #[must_use]
    pub fn slow_by(self, slow_by: SlowCallBy) -> Self {
        self.change(|config| config.judge.slow_by = slow_by)
    }

    /// How many failures in a row open the circuit; `None` for any number. Default: 5.
    #[must_use]
    pub fn consecutive_failures(self, failures: impl Into<Option<NonZeroU32>>) -> Self {
        self.change(|config| config.settings.consecutive = failures.into())
    }

    /// How long the circuit is open the first time, and at most: it doubles each time that a probe fails, and a success
    /// brings it back. Default: 5 s, 300 s.
    ///
    /// # Errors
    ///
    /// If the first is zero, or longer than the longest.
    pub fn open_time(self, first: Duration, longest: Duration) -> Result<Self, InvalidConfig> {
        if first.is_zero() || first > longest {
            return Err(InvalidConfig::new("open_time", "must be more than zero, and not shrink"));
        }
        Ok(self.change(|config| (config.settings.open, config.settings.open_max) = (first, longest)))
    }

    /// The part of an open time by which it is made longer at random, so that many clients do not probe at once. Default:
    /// 0.1.
    ///
    /// # Errors
    ///
    /// If it does not lie between 0 and 1.
    pub fn jitter(self, jitter: f64) -> Result<Self, InvalidConfig> {
        if !(0.0..=1.0).contains(&jitter) {
            return Err(InvalidConfig::new("jitter", "must lie between 0 and 1"));
        }
        Ok(self.change(|config| config.settings.jitter = jitter))
    }

    /// How many calls may probe a half-open circuit at once. Default: 1.
    #[must_use]
    pub fn probes(self, probes: NonZeroU32) -> Self {
        self.change(|config| config.settings.probes = probes)
    }

    /// How many probes must succeed to close the circuit. Default: as many as may probe at once.
    #[must_use]
    pub fn successes(self, successes: NonZeroU32) -> Self {
        self.change(|config| config.settings.successes = Some(successes))
    }

    /// How long a probe may wait for the upstream, or lie with its consumer. Default: 90 s.
    ///
    /// Sending the request is waiting too. Let it be longer than the longest [first byte](crate::FirstByteTimeoutLayer)
    /// that is allowed inside: of an upstream that is not given up, a probe must not be given up either.
    #[must_use]
    pub fn probe_timeout(self, timeout: Duration) -> Self {
        self.change(|config| config.settings.probe_timeout = timeout)
    }

    /// Whether to count and tell, but never to open: to see what a breaker would do. Default: false.
    #[must_use]
    pub fn metrics_only(self, metrics_only: bool) -> Self {
        self.change(|config| config.settings.metrics_only = metrics_only)
    }

    /// What answers and errors say about the upstream. Default: [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.change(|config| config.judge.classifier = Classifier::new(classifier))
    }

    /// One circuit per key: per host, model or tenant. Requests for which there is none share one.
    ///
    /// The key shows in events, in handles, and to whoever reads them: let it be no secret. Circuits are kept for
    /// [`max_keys`](Self::max_keys); then the one that was not used for longest goes, whatever its state. Those that were
    /// isolated, opened or switched off by hand, those of which somebody holds a [handle](Self::handle_for), and those with
    /// a probe on its way go last.
    ///
    /// The inner service is asked whether it is ready only when the circuit is known, inside the future.
    ///
    /// ```
    /// use tower_buttress::CircuitBreakerLayer;
    ///
    /// let breaker = CircuitBreakerLayer::new().key(|parts| Some(parts.uri.host()?.into()));
    /// breaker.handle_for("models.internal").isolate();
    /// assert_eq!(breaker.handles().len(), 1);
    /// ```
    #[must_use]
    pub fn key<F>(self, key: F) -> Self
    where
        F: Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync + 'static,
    {
        self.change(|config| config.key = Some(Key(Arc::new(key))))
    }

    /// How many keys have circuits. Default: 1,024.
    #[must_use]
    pub fn max_keys(self, keys: NonZeroUsize) -> Self {
        self.change(|config| config.max_keys = keys)
    }

    /// Tells `observer` of every change of state, and of every refusal.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// While a circuit is open, sends this request through the inner service at this interval; it closes the circuit as a
    /// successful probe does, and no caller is made a probe. It is given the circuit's key. Off unless asked for.
    ///
    /// It is not sent while the upstream has asked for time, or somebody opened the circuit by hand. It is sent by a task,
    /// through the service that the layer was first put around, and ends with the last clone of the layer and of its
    /// services. Without a tokio runtime, callers probe.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower_buttress::CircuitBreakerLayer;
    ///
    /// let layer = CircuitBreakerLayer::new().health_probe(Duration::from_secs(2), |_key| {
    ///     Request::get("http://models.internal/health").body(axum::body::Body::empty()).unwrap()
    /// });
    /// assert!(format!("{layer:?}").contains("2s"));
    /// ```
    #[must_use]
    pub fn health_probe<F, ReqB>(self, every: Duration, request: F) -> HealthProbeLayer<F>
    where
        F: Fn(Option<&str>) -> Request<ReqB> + Send + Sync + 'static,
    {
        HealthProbeLayer::new(self, every, request)
    }

    /// The circuit of requests without a key: the only one, unless there is a [`key`](Self::key).
    ///
    /// A setter makes a new breaker. Take handles, and clones, when all is set.
    #[must_use]
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.breakers.unkeyed().clone())
    }

    /// The circuit of this key, which is made if there is none.
    #[must_use]
    pub fn handle_for(&self, key: &str) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.breakers.keyed(key))
    }

    /// The circuits of all keys that there are.
    #[must_use]
    pub fn handles(&self) -> Vec<CircuitBreakerHandle> {
        self.breakers.all_keyed().into_iter().map(CircuitBreakerHandle::new).collect()
    }

    /// `None`: the layer is off.
    pub(super) fn breakers(&self) -> Option<&Arc<BreakerSet>> {
        self.enabled.then_some(&self.breakers)
    }

    fn with(config: Config, enabled: bool) -> Self {
        Self { breakers: Arc::new(BreakerSet::new(config)), enabled }
    }

    fn change(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.breakers.config.clone();
        change(&mut config);
        Self::with(config, self.enabled)
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CircuitBreakerLayer {
    type Service = CircuitBreaker<S>;

    fn layer(&self, inner: S) -> CircuitBreaker<S> {
        CircuitBreaker::new(inner, self.breakers().cloned())
    }
}

fn check_ratio(setting: &'static str, ratio: f64) -> Result<(), InvalidConfig> {
    if ratio > 0.0 && ratio <= 1.0 {
        Ok(())
    } else {
        Err(InvalidConfig::new(setting, "must lie above 0 and at or below 1"))
    }
}
