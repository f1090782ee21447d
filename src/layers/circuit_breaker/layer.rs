use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::breaker_set::BreakerSet;
use super::config::{CircuitBreakerConfig, KeyBy, ServiceConfig};
use super::gate::{BreakerGate, Shared};
use super::handle::CircuitBreakerHandle;
use super::peers::CircuitPeers;
use super::service::CircuitBreaker;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::layer_classifier::LayerClassifier;
use crate::rt::settings::LayerSettings;

/// Refuses calls to a failing upstream with an immediate 503, and probes whether it has recovered.
///
/// While the circuit is *closed*, the breaker counts calls and lets them pass. When too many fail the circuit *opens*:
/// the breaker refuses calls, with the time until the next try in `Retry-After`. After that time the circuit is
/// *half-open*: one call, the probe, passes. If it succeeds the circuit closes; if it fails the circuit opens again.
///
/// A call has succeeded at its first data. The breaker revokes that success if the response *body* fails later: an
/// upstream that answers `200` and then drops its streams is down.
///
/// # When to use it, and when not
///
/// Around an upstream that many callers share, best with a [fallback](crate::FallbackLayer) around it, so no caller waits
/// for a call that is known to fail. With few calls and no fallback it only exchanges one error for another.
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
/// The [classifier](crate::verdict) judges the upstream by an answer, an error, or the end of a body: *success*,
/// *failure* (5xx, no connection, a body that broke off), *throttled* (429), or ignored. The circuit opens when
///
/// - [`consecutive_failures`](CircuitBreakerConfig::consecutive_failures) came in a row and the upstream showed no
///   activity for 5 s: no success, and no data of a stream in flight. While streams still flow, three times as many
///   failures open it, once no call has succeeded for 5 s. A throttled call neither ends nor lengthens the row; or when
/// - the [`window`](CircuitBreakerConfig::window) holds at least [`min_calls`](CircuitBreakerConfig::min_calls), and the
///   ratio of failed and throttled calls reaches [`failure_ratio`](CircuitBreakerConfig::failure_ratio), or the ratio of
///   slow calls that of [`slow_calls`](CircuitBreakerConfig::slow_calls); or when
/// - a call fails within 10 s after the circuit has closed, before any succeeds.
///
/// One caller must not open the circuit for all with calls that fail for it alone: by a prompt that the server answers 500,
/// or a key that is limited. So a failed or throttled call that the upstream *answered* is ignored, and in no statistics, if
/// another [`Tenant`](crate::Tenant) was served within 60 s and no other one has had a failure within 10 s. (Such a
/// failure makes two of one tenant's count.) All callers without a tenant count as one. Always counted are failures without an
/// answer, failures of probes, and failures after the first data. All failures count once no other tenant was served for a
/// minute: then one tenant can open the circuit, and keep it open with its probes. Routes that can fail separately belong
/// under [keys](Self::key) of their own.
///
/// Thresholds are inclusive (`>=`). A failure is often immediate and a success takes time, so calls that began in the
/// last 5 s and wait for their first data count as successes meanwhile.
///
/// **A call cancelled** before its first data, by its caller or a [`DeadlineLayer`](crate::DeadlineLayer), is ignored if
/// it was short. It counts as a failure if the upstream had the whole request and kept it waiting for at least half of
/// the [first-byte limit](CircuitBreakerConfig::first_byte): otherwise callers with short timeouts would never find out
/// that an upstream hangs. One impatient caller must not open the circuit for all: a [`Tenant`](crate::Tenant) counts
/// once in 10 s. All requests without a tenant count as those of one: a caller could send another made-up credential with
/// each. Cancelled calls count in a row only if two tenants cancelled, or after a minute without activity.
///
/// # Place in the stack
///
/// Inside retries and fallbacks, so that it counts and refuses each attempt; outside the timeouts, whose refusals are
/// failures of the upstream. A [`DeadlineLayer`](crate::DeadlineLayer) belongs outside: a caller's short deadline then
/// ends the call without counting.
///
/// All clones of one layer, and all services they make, share its circuits. On an axum router, `.layer(breaker.clone())`
/// on many routes is one breaker. Setters keep the circuits and the handles.
///
/// # What happens when
///
/// - *The circuit is open*: a 503 that carries a [`Rejection`](crate::Rejection) (for gRPC callers `UNAVAILABLE`),
///   without polling the inner service for readiness. A caller that already waits for readiness keeps waiting.
/// - *The caller drops the future, or the body before its first data*: see above. A probe frees its place.
/// - *The caller drops the body later*: the success stands. Readers of event streams leave at `[DONE]`.
/// - *The head decides* (a failure, or no body on the wire, as after `HEAD`): counted at the head.
/// - *The inner future or body panics*: counted as a failure; the panic goes on.
/// - *A probe gets no answer*: after another open time the next call probes too, and the first answer decides. The open
///   time doubles, up to the longest, for each probe without an answer, not for a probe that fails at once.
/// - *`Retry-After` on a failure*: the circuit stays open at least that long, but no longer than the longest open time.
/// - *Trailers*: pass, and the classifier sees them. With [`verdict::Grpc`](crate::verdict::Grpc), a stream that ends
///   without them has failed. *Upgrades*: successes at the head.
///
/// # Cancel safety
///
/// Dropping the future drops the call, and frees its probe and counters.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// A call through a closed circuit: one clock read, four atomic operations in memory that (up to sixteen) threads do not
/// share, and no allocation or lock, unless it fails or is the first in a tenth of the window. If it waits for its
/// answer, one clock read and two operations more; a stream: one clock read each time data comes after a wait. A refusal:
/// one clock read, and the response. With [keys](Self::key) add the look-up. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer {
    shared: LayerSettings<Shared>,
    enabled: bool,
}

// === impl CircuitBreakerLayer ===

impl CircuitBreakerLayer {
    /// Returns a breaker with the [default settings](CircuitBreakerConfig::new).
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(CircuitBreakerConfig::new())
    }

    /// Returns a breaker with these settings.
    #[must_use]
    pub fn with_config(config: CircuitBreakerConfig) -> Self {
        let set = Arc::new(BreakerSet::new(config));
        Self { shared: LayerSettings::new(Shared { set, calls: ServiceConfig::default() }), enabled: true }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { enabled: false, ..Self::new() }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Returns a breaker with the same settings, and its own circuits.
    pub(crate) fn separate(&self) -> Self {
        let mut layer = self.clone();
        layer.shared.set = Arc::new(BreakerSet::new(self.config()));
        layer.shared.set.observe(self.shared.calls.emitter.clone());
        layer
    }

    /// Changes the settings of this layer, its clones, and their services. The counts stay, unless the window changes.
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

    /// Sets the classifier, which judges the upstream by answers and errors. Applies to services made from now on.
    /// Default: [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.shared.calls.classifier = LayerClassifier::own(classifier);
        self
    }

    /// Takes the classifier of the stack, if it has none of its own.
    pub(crate) fn or_classifier(mut self, of_stack: &Classifier) -> Self {
        if !of_stack.is_standard() {
            // For the services that are made from now on.
            let settings = &mut *self.shared;
            settings.calls.classifier.adopt(of_stack);
        }
        self
    }

    /// Gives each key its own circuit: per host, model or tenant. Requests whose key is `None` share one circuit. Applies
    /// to services made from now on.
    ///
    /// The key shows in events and handles: it must not be a secret. At most [`max_keys`](CircuitBreakerConfig::max_keys)
    /// circuits exist; a new key evicts the least recently used. A circuit that is open, half-open, set by hand, or has a
    /// live [handle](Self::handle_for) is never evicted. If no circuit can be evicted, new keys share the circuit of
    /// requests without a key.
    ///
    /// The inner service is polled for readiness inside the future, when the circuit is known.
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

    /// Gives each host and [`Model`](crate::Model) its own circuit: a model that is down does not affect the others of
    /// its host. Applies to services made from now on. Presets use it.
    ///
    /// Callers choose the model, so a name becomes a key (`"<host> <model>"`) only after a 2xx for it, and at most 256
    /// per host: the rest share `"<host> other"`. Requests without a model have the key `"<host>"`, those without a host
    /// none.
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

    /// Shares the circuits of this layer, its clones, and their services, with other processes. The first call takes
    /// effect; later ones do not.
    ///
    /// This process's own results take precedence: peers do not close off an upstream that answers here. See
    /// [`PeerCircuit::apply`](crate::PeerCircuit::apply) for the rule, and `FleetBreaker` in the crate
    /// `tower-buttress-redis` for an implementation over Redis.
    #[must_use]
    pub fn share(self, peers: impl CircuitPeers) -> Self {
        if self.enabled {
            self.shared.set.share(peers);
        }
        self
    }

    /// Returns the circuit of requests without a key: the only one, unless there is a [`key`](Self::key).
    #[must_use]
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.shared.set.unkeyed().clone())
    }

    /// Returns the circuit of this key, and makes it if there is none.
    #[must_use]
    pub fn handle_for(&self, key: &str) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.shared.set.keyed(key))
    }

    /// Returns the circuits of all keys, in no order.
    #[must_use]
    pub fn handles(&self) -> Vec<CircuitBreakerHandle> {
        self.shared.set.all_keyed().into_iter().map(CircuitBreakerHandle::new).collect()
    }

    /// Returns the current settings.
    #[must_use]
    pub fn config(&self) -> CircuitBreakerConfig {
        self.shared.set.config()
    }

    /// What health probes need; `None`: the layer is off.
    pub(super) fn probed(&self) -> Option<(&Arc<BreakerSet>, &Classifier)> {
        self.enabled.then_some((&self.shared.set, &*self.shared.calls.classifier))
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
