//! Recovery without a victim.
//!
//! # Why not let a caller find out?
//!
//! It is free, and the default. But while an upstream stays down, one caller per open time waits for a failure that
//! could have been foreseen. Where a cheap request can tell as much, a task sends it in their place, for as long as the
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

use super::circuit::Circuit;
use super::classification::{Classification, PANICKED};
use super::layer::CircuitBreakerLayer;
use super::service::CircuitBreaker;
use crate::error::BoxError;
use crate::policy::breaker::CallResult;
use crate::policy::verdict::Health;
use crate::rt::clock;
use crate::rt::sync::{Mutex, lock};

/// A [`CircuitBreakerLayer`] with a health probe, made by [`CircuitBreakerLayer::health_probe`].
pub struct HealthProbeLayer<F> {
    layer: CircuitBreakerLayer,
    every: Duration,
    request: Arc<F>,
}

/// Looks after the circuits of a layer that are open.
pub(super) struct Prober {
    every: Duration,
    timeout: Duration,
    send: Arc<SendProbe>,
    alive: watch::Receiver<()>,
}

/// Sends the probe for a circuit of this key.
type SendProbe = dyn Fn(Option<&str>, Classification) -> Probe + Send + Sync;
type Probe = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// Makes callers probe again, should the task end before the circuit closes.
struct HealthProbeGuard(Weak<Circuit>);

// === impl HealthProbeLayer ===

impl<F> HealthProbeLayer<F> {
    pub(super) fn new(layer: CircuitBreakerLayer, every: Duration, request: F) -> Self {
        Self { layer, every, request: Arc::new(request) }
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
        if let Some(breakers) = self.layer.breakers() {
            breakers.probe_with(|alive| {
                let (service, request) = (Mutex::new(inner.clone()), self.request.clone());
                let send = move |key: Option<&str>, judge| -> Probe {
                    let service = lock(&service).clone();
                    Box::pin(probe(service, request(key), judge))
                };
                let timeout = breakers.config.settings.probe_timeout;
                Prober { every: self.every, timeout, send: Arc::new(send), alive }
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
async fn probe<S, ReqB, ResB>(mut service: S, request: Request<ReqB>, judge: Classification) -> CallResult
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: std::error::Error + 'static,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError>,
{
    let start = clock::now();
    let response = match poll_fn(|cx| service.poll_ready(cx)).await {
        Ok(()) => service.call(request).await,
        Err(err) => Err(err),
    };
    let response = match response {
        Ok(response) => response,
        Err(err) => return judge.error(&err),
    };
    let mut ended = judge.head(&response);
    let mut body = pin!(response.into_body());
    while ended.health == Health::Success {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !data.is_empty()) => break,
            Some(Ok(frame)) => ended = frame.trailers_ref().map_or(ended, |trailers| judge.trailers(trailers)),
            Some(Err(err)) => ended = judge.error(&*err.into()),
            None => break,
        }
    }
    let took = clock::now().saturating_duration_since(start);
    CallResult { slow: judge.slow_after.is_some_and(|limit| took > limit), ..ended }
}

// === impl Prober ===

impl Prober {
    /// Begins to look after a circuit that has just opened, unless somebody does, or there is nothing to run on.
    pub(super) fn look_after(&self, circuit: &Weak<Circuit>) {
        let (Ok(runtime), Some(open)) = (Handle::try_current(), circuit.upgrade()) else { return };
        if self.alive.has_changed().is_ok() && open.with(|machine| (machine.begin_health(self.every), None)) {
            let looking = HealthProbeGuard(circuit.clone());
            runtime.spawn(look(looking, self.every, self.timeout, self.send.clone(), self.alive.clone()));
        }
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").field("every", &self.every).finish_non_exhaustive()
    }
}

/// Probes until the circuit is no longer open, or there is nobody left whom it would help.
async fn look(
    mut looking: HealthProbeGuard,
    every: Duration,
    timeout: Duration,
    send: Arc<SendProbe>,
    mut alive: watch::Receiver<()>,
) {
    loop {
        if unless_gone(&mut alive, tokio::time::sleep(every)).await.is_none() {
            return;
        }
        let Some(circuit) = looking.0.upgrade() else { return };
        if circuit.with(|machine| (machine.end_health_unless_open(), None)) {
            // Should it open again, somebody else looks after it.
            looking.0 = Weak::new();
            return;
        }
        let Some(permit) = circuit.admit_health(clock::now()) else { continue };
        let probe = send(circuit.teller.key().map(|key| &**key), permit.lane().judge.clone());
        // It may take long, and must not keep alive what it looks after.
        drop(circuit);
        match unless_gone(&mut alive, tokio::time::timeout(timeout, probe)).await {
            None => return,
            Some(ended) => permit.settle(ended.unwrap_or(PANICKED), clock::now()),
        }
    }
}

/// What `future` comes to, unless all for whom it works are gone before.
async fn unless_gone<F: Future>(alive: &mut watch::Receiver<()>, future: F) -> Option<F::Output> {
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
