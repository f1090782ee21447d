use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::breaker_set::BreakerSet;
use super::config::{CallConfig, CircuitBreakerConfig, KeyBy};
use super::gate::{BreakerGate, Shared};
use super::handle::CircuitBreakerHandle;
use super::peers::CircuitPeers;
use super::service::CircuitBreaker;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::settings::Settings;

/// Refuses calls, with a 503 at once, to an upstream that is failing, and lets one call find out when it is back.
///
/// While the circuit is *closed*, calls pass and are counted. When too many fail it *opens*: calls are refused, with the
/// time until the next try in `Retry-After`. When that time is over it is *half-open*: one call, the probe, passes; if
/// it succeeds the circuit closes, if it fails the circuit opens again.
///
/// A call has succeeded at its first data, and that is taken back if its response *body* fails later: an upstream that
/// answers `200` and then drops its streams is down.
///
/// # When to use it, and when not
///
/// Around an upstream that many callers share, above all with a [fallback](crate::FallbackLayer) around it: then no caller
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
/// The [classifier](crate::verdict) says what an answer, an error, or the end of a body says about the upstream: *success*,
/// *failure* (5xx, no connection, a body that broke off), *throttled* (429), or nothing. The circuit opens when
///
/// - [`consecutive_failures`](CircuitBreakerConfig::consecutive_failures) came in a row and the upstream gave no sign of life
///   for 5 s: no success, and no data of a stream under way. Three times as many open it beside streams that still flow, once
///   no call has succeeded for 5 s. A throttled call neither ends nor lengthens the row; or when
/// - in the [`window`](CircuitBreakerConfig::window) there are at least [`min_calls`](CircuitBreakerConfig::min_calls), and
///   the ratio of those that failed or were throttled reaches [`failure_ratio`](CircuitBreakerConfig::failure_ratio), or the
///   ratio of slow ones that of [`slow_calls`](CircuitBreakerConfig::slow_calls); or when
/// - a call fails within 10 s after the circuit has closed, before any succeeds.
///
/// Thresholds are inclusive (`>=`). Failures come at once and successes need time, so calls that began in the last 5 s and
/// wait for their first data count as successes meanwhile.
///
/// **A call that is given up** before its first data, by its caller or a [`DeadlineLayer`](crate::DeadlineLayer), says nothing
/// if it was short. It counts as a failure when the upstream had the whole request and kept it waiting for at least half of
/// the [first-byte limit](CircuitBreakerConfig::first_byte): otherwise callers with little patience would never find out that
/// an upstream hangs. So that one impatient caller does not decide for all, a tenant ([`Tenant`](crate::Tenant), or else the
/// credentials) counts once in 10 s, and calls given up count in a row only if two tenants gave up, or after a minute without
/// a sign of life.
///
/// # Place in the stack
///
/// Inside retries and fallbacks, so that each attempt is counted and refused; outside the timeouts, whose refusals are
/// failures of the upstream. A [`DeadlineLayer`](crate::DeadlineLayer) belongs outside: a caller's short deadline then
/// ends the call without counting.
///
/// The circuits live in the layer: all clones of one layer, and all services they make, share them. On an axum router,
/// `.layer(breaker.clone())` on many routes is one breaker. Setters keep them, and the handles that were taken before.
///
/// # What happens when
///
/// - *The circuit is open*: a 503 that carries a [`Rejection`](crate::Rejection) (for gRPC callers `UNAVAILABLE`), without
///   polling whether the inner service is ready. A caller that waits for its readiness already waits until it is ready.
/// - *The caller drops the future, or the body before its first data*: see above. A probe's place is free again.
/// - *The caller drops the body later*: the success stands. Readers of event streams leave at `[DONE]`.
/// - *The head says it all* (a failure, or no body on the wire, as after `HEAD`): counted at the head.
/// - *The inner future or body panics*: counted as a failure, and passed on.
/// - *A probe is not answered*: after an open time the next call probes too, and the first answer decides. The open time
///   doubles, up to the longest: for each probe without an answer, not for one that fails at once.
/// - *`Retry-After` on a failure*: the circuit stays open at least that long, but no longer than the longest open time.
/// - *Trailers*: passed on, and shown to the classifier. With [`verdict::Grpc`](crate::verdict::Grpc), a stream that ends
///   without them has failed. *Upgrades*: successes at the head.
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
/// threads do not share, and no allocation or lock, unless it fails or is the first in a tenth of the window. One that waits
/// for its answer: one reading more, and two operations; a stream: one reading each time data comes after a wait. A refusal:
/// one reading of the clock, and the response. With [keys](Self::key) add the look-up. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer {
    shared: Settings<Shared>,
    enabled: bool,
}

// === impl CircuitBreakerLayer ===

impl CircuitBreakerLayer {
    /// A breaker with the [default settings](CircuitBreakerConfig::new).
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(CircuitBreakerConfig::new())
    }

    /// A breaker with these settings.
    #[must_use]
    pub fn with_config(config: CircuitBreakerConfig) -> Self {
        let set = Arc::new(BreakerSet::new(config));
        Self { shared: Settings::new(Shared { set, calls: CallConfig::default() }), enabled: true }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { enabled: false, ..Self::new() }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// A breaker with the same settings, and circuits of its own.
    pub(crate) fn separate(&self) -> Self {
        let mut layer = self.clone();
        layer.shared.set = Arc::new(BreakerSet::new(self.config()));
        layer.shared.set.observe(self.shared.calls.emitter.clone());
        layer
    }

    /// Changes the settings, of this layer, its clones, and the services they made. What was counted stays, unless the
    /// window changes.
    ///
    /// ```
    /// use tower_buttress::CircuitBreakerLayer;
    ///
    /// let breaker = CircuitBreakerLayer::new();
    /// let circuit = breaker.handle();
    /// let breaker = breaker.configure(|config| config.failure_ratio(0.3));
    /// circuit.isolate();
    /// assert_eq!(breaker.handle().state(), circuit.state());
    /// ```
    #[must_use]
    pub fn configure(self, change: impl FnOnce(CircuitBreakerConfig) -> CircuitBreakerConfig) -> Self {
        self.shared.set.configure(change);
        self
    }

    /// What answers and errors say about the upstream, for the services that are made from now on. Default:
    /// [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.shared.calls.classifier = Classifier::new(classifier);
        self
    }

    /// One circuit per key, for the services that are made from now on: per host, model or tenant. Requests for which it is
    /// `None` share one.
    ///
    /// The key shows in events and handles: let it be no secret. Circuits are kept for
    /// [`max_keys`](CircuitBreakerConfig::max_keys); then the one that was not used for longest goes. Those that are open, half
    /// open or set by hand, and those with a live [handle](Self::handle_for), are never dropped for another. Where no circuit
    /// can be dropped, new keys share the one of requests without a key.
    ///
    /// The inner service is polled for readiness only when the circuit is known, inside the future.
    ///
    /// ```
    /// use tower_buttress::CircuitBreakerLayer;
    ///
    /// let breaker = CircuitBreakerLayer::new().key(|parts| Some(parts.uri.host()?.into()));
    /// breaker.handle_for("models.internal").isolate();
    /// assert_eq!(breaker.handles().len(), 1);
    /// ```
    #[must_use]
    pub fn key<F>(mut self, key: F) -> Self
    where
        F: Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync + 'static,
    {
        self.shared.calls.key = Some(KeyBy::By(Arc::new(key)));
        self
    }

    /// One circuit per host and [`Model`](crate::Model), for the services that are made from now on: one model that is down
    /// does not take the others of its host with it. Presets do so.
    ///
    /// Callers choose the model, so a name becomes a key (`"<host> <model>"`) only after a 2xx under it, and at most 256 of a
    /// host do: the rest share `"<host> other"`. Requests without a model have the key `"<host>"`, those without a host none.
    ///
    /// ```
    /// use tower_buttress::CircuitBreakerLayer;
    ///
    /// let breaker = CircuitBreakerLayer::new().key_by_model();
    /// breaker.handle_for("models.internal gpt-5-mini").isolate();
    /// ```
    #[must_use]
    pub fn key_by_model(mut self) -> Self {
        self.shared.calls.key = Some(KeyBy::HostAndModel);
        self
    }

    /// Reports every change of state, of all clones of this layer, and every refusal to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.shared.calls.emitter = Emitter::to(observer);
        self.shared.set.observe(self.shared.calls.emitter.clone());
        self
    }

    /// Shares the circuits with other processes, of this layer, its clones, and the services they made. The first to be
    /// given stays.
    ///
    /// What this process has seen itself comes first: an upstream that answers here is not given up because others say so.
    /// See [`PeerCircuit::hear`](crate::PeerCircuit::hear) for the rule, and `FleetBreaker` in the crate
    /// `tower-buttress-redis` for one over Redis.
    #[must_use]
    pub fn share(self, peers: impl CircuitPeers) -> Self {
        if self.enabled {
            self.shared.set.share(peers);
        }
        self
    }

    /// The circuit of requests without a key: the only one, unless there is a [`key`](Self::key).
    #[must_use]
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.shared.set.unkeyed().clone())
    }

    /// The circuit of this key, which is made if there is none.
    #[must_use]
    pub fn handle_for(&self, key: &str) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.shared.set.keyed(key))
    }

    /// The circuits of all keys, in no order.
    #[must_use]
    pub fn handles(&self) -> Vec<CircuitBreakerHandle> {
        self.shared.set.all_keyed().into_iter().map(CircuitBreakerHandle::new).collect()
    }

    /// The settings as they are.
    #[must_use]
    pub fn config(&self) -> CircuitBreakerConfig {
        self.shared.set.config()
    }

    /// What health probes need; `None`: the layer is off.
    pub(super) fn probed(&self) -> Option<(&Arc<BreakerSet>, &Classifier)> {
        self.enabled.then_some((&self.shared.set, &self.shared.calls.classifier))
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
        CircuitBreaker::new(inner, self.enabled.then(|| BreakerGate(self.shared.for_service())))
    }
}
