//! Health probes: test recovery without using a client's request.
//!
//! # Why not let a caller find out?
//!
//! It is free, and the default. But while an upstream stays down, one caller per open time waits for a failure that
//! could have been foreseen. Where a cheap request says as much, a task sends it in their place, for as long as the
//! circuit is open.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

use super::CircuitBreaker;
use super::circuit::Circuit;
use super::classification::{of_error, of_head, of_trailers};
use super::layer::CircuitBreakerLayer;
use super::permit::Permit;
use crate::error::BoxError;
use crate::policy::breaker::CallResult;
use crate::policy::verdict::{Classifier, Health};
use crate::rt::clock;
use crate::rt::sync::{Mutex, lock};

/// A [`CircuitBreakerLayer`] with a health probe, made by [`CircuitBreakerLayer::health_probe`].
pub struct HealthProbeLayer<F> {
    layer: CircuitBreakerLayer,
    every: Duration,
    request: Arc<F>,
}

/// Sends health probes for the open circuits of a layer.
pub(super) struct Prober {
    every: Duration,
    send: Arc<SendProbe>,
    alive: watch::Receiver<()>,
}

/// Sends the probe for a circuit of this key.
type SendProbe = dyn Fn(Option<&str>) -> Probe + Send + Sync;
type Probe = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// More would be a load, and none at all a task that never rests.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// So many frames may be ready one after the other before other tasks get their turn.
const READY_FRAMES: u32 = 64;

/// Makes callers probe again, should the task end before the circuit closes.
struct HealthProbeGuard(Weak<Circuit>);

// === impl HealthProbeLayer ===

impl<F> HealthProbeLayer<F> {
    pub(super) fn new(layer: CircuitBreakerLayer, every: Duration, request: F) -> Self {
        Self { layer, every: every.max(SHORTEST_INTERVAL), request: Arc::new(request) }
    }

    /// The layer itself, for its handles.
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
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Service = CircuitBreaker<S>;

    fn layer(&self, inner: S) -> CircuitBreaker<S> {
        if let Some((set, classifier)) = self.layer.probed() {
            set.probe_with(|alive| {
                let (service, request) = (Mutex::new(inner.clone()), self.request.clone());
                let (classifier, timeouts) = (classifier.clone(), Arc::downgrade(set));
                let send = move |key: Option<&str>| -> Probe {
                    let service = lock(&service).clone();
                    let timeout = timeouts.upgrade().map(|set| set.config().settings.probe_timeout);
                    let probe = probe(service, request(key), classifier.clone());
                    Box::pin(async move {
                        let answered = tokio::time::timeout(timeout.unwrap_or_default(), probe).await;
                        answered.unwrap_or(CallResult::UNANSWERED)
                    })
                };
                Prober { every: self.every, send: Arc::new(send), alive }
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

/// One probe, up to the first data of its answer: what a caller's probe has to show.
async fn probe<S, ReqB, ResB>(mut service: S, request: Request<ReqB>, classifier: Classifier) -> CallResult
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: std::error::Error + 'static,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError>,
{
    let response = match poll_fn(|cx| service.poll_ready(cx)).await {
        Ok(()) => service.call(request).await,
        Err(err) => Err(err),
    };
    let response = match response {
        Ok(response) => response,
        Err(err) => return of_error(&classifier, &err),
    };
    let mut result = of_head(&classifier, &response);
    let mut body = pin!(response.into_body());
    let mut frames = 0_u32;
    while result.health == Health::Success {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !data.is_empty()) => break,
            Some(Ok(frame)) => {
                result = frame.trailers_ref().map_or(result, |trailers| of_trailers(&classifier, trailers));
            }
            Some(Err(err)) => result = of_error(&classifier, &*err.into()),
            None => break,
        }
        frames = frames.wrapping_add(1);
        if frames % READY_FRAMES == 0 {
            tokio::task::yield_now().await;
        }
    }
    result
}

// === impl Prober ===

impl Prober {
    /// Begins to probe a circuit that has just opened, unless a task does already, or there is no runtime.
    pub(super) fn begin(&self, circuit: &Weak<Circuit>) {
        let (Ok(runtime), Some(open)) = (Handle::try_current(), circuit.upgrade()) else { return };
        if self.alive.has_changed().is_ok() && open.with(|machine| (machine.begin_health(self.every), None)) {
            let guard = HealthProbeGuard(circuit.clone());
            runtime.spawn(run_health_probes(guard, self.every, self.send.clone(), self.alive.clone()));
        }
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").field("every", &self.every).finish_non_exhaustive()
    }
}

/// Probes until the circuit is no longer open, or the last service that it would help is gone.
async fn run_health_probes(
    mut guard: HealthProbeGuard,
    every: Duration,
    send: Arc<SendProbe>,
    mut alive: watch::Receiver<()>,
) {
    while while_alive(&mut alive, tokio::time::sleep(every)).await.is_some() {
        let Some(circuit) = guard.0.upgrade() else { return };
        if circuit.with(|machine| (machine.end_health_unless_open(), None)) {
            // Should it open again, another task probes it.
            guard.0 = Weak::new();
            return;
        }
        let Some(Permit { shard, grant }) = circuit.admit_health(clock::now()) else { continue };
        let probe = send(circuit.notifier.key().map(|key| &**key));
        // It may take long, and must not keep the circuit alive.
        drop(circuit);
        let start = clock::now();
        let Some(result) = while_alive(&mut alive, probe).await else { return };
        let now = clock::now();
        let took = shard.nanos(now).elapsed_since(shard.nanos(start));
        let slow = shard.limits().has_slow() && shard.limits().is_slow(took);
        shard.settle(grant, CallResult { slow, ..result }, took.as_duration(), now);
    }
}

/// What `future` returns, unless the layer and all its services are gone before.
async fn while_alive<F: Future>(alive: &mut watch::Receiver<()>, future: F) -> Option<F::Output> {
    let (mut gone, mut future) = (pin!(alive.changed()), pin!(future));
    poll_fn(|cx| match gone.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}

// === impl HealthProbeGuard ===

impl Drop for HealthProbeGuard {
    fn drop(&mut self) {
        if let Some(circuit) = self.0.upgrade() {
            circuit.with(|machine| (machine.end_health(), None));
        }
    }
}
