//! A circuit breaker layer with a health probe.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::health::{Prober, probe};
use super::layer::CircuitBreakerLayer;
use super::service::CircuitBreaker;
use crate::error::BoxError;
use crate::policy::breaker::CallResult;
use crate::rt::sync::{Mutex, lock};

/// A [`CircuitBreakerLayer`] with a health probe, made by [`CircuitBreakerLayer::health_probe`].
pub struct HealthProbeLayer<F> {
    layer: CircuitBreakerLayer,
    every: Duration,
    request: Arc<F>,
}

/// A shorter interval would load the upstream; a zero interval would spin.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

// === impl CircuitBreakerLayer ===

impl CircuitBreakerLayer {
    /// Probes with a request of its own while a circuit is open: sends it through the inner service at this interval. A
    /// success closes the circuit, and no caller is a probe. The closure gets the circuit's key. Default: off. The
    /// shortest interval is 100 ms.
    ///
    /// The layer does not send it while the upstream has asked for time (`Retry-After`), or after the circuit was opened
    /// by hand. A task sends it through the service that the layer was first put around; the task ends with the last
    /// clone of the layer and of its services. Without a tokio runtime, callers probe.
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
        HealthProbeLayer { layer: self, every: every.max(SHORTEST_INTERVAL), request: Arc::new(request) }
    }
}

// === impl HealthProbeLayer ===

impl<F> HealthProbeLayer<F> {
    /// The inner layer, for its handles.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreakerLayer {
        &self.layer
    }
}

impl<S, F, ReqB, ResB> Layer<S> for HealthProbeLayer<F>
where
    F: Fn(Option<&str>) -> Request<ReqB> + Send + Sync + 'static,
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Error: std::error::Error + Send + 'static,
    S::Future: Send,
    ReqB: Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Service = CircuitBreaker<S>;

    fn layer(&self, inner: S) -> CircuitBreaker<S> {
        if let Some((set, classifier)) = self.layer.probed() {
            set.probe_with(|alive| {
                let (service, request) = (Mutex::new(inner.clone()), self.request.clone());
                let (classifier, timeouts) = (classifier.clone(), Arc::downgrade(set));
                Prober::new(self.every, alive, move |key| {
                    let service = lock(&service).clone();
                    let timeout = timeouts.upgrade().map(|set| set.config().settings.probe_timeout);
                    let probe = probe(service, request(key), classifier.clone());
                    Box::pin(async move {
                        let answered = tokio::time::timeout(timeout.unwrap_or_default(), probe).await;
                        answered.unwrap_or(CallResult::UNANSWERED)
                    })
                })
            });
        }
        self.layer.layer(inner)
    }
}

impl<F> Clone for HealthProbeLayer<F> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), every: self.every, request: self.request.clone() }
    }
}

impl<F> fmt::Debug for HealthProbeLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthProbeLayer").field("layer", &self.layer).field("every", &self.every).finish()
    }
}
