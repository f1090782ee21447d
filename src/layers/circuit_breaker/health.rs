//! Health probes: test recovery without using a client's request.
//!
//! # Why not let a caller find out?
//!
//! That costs nothing, and is the default. But while an upstream stays down, one caller per open time waits for a
//! predictable failure. If a cheap request tests the upstream as well, a task sends it instead, for as long as the
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
use tower_service::Service;

use super::circuit::{Circuit, CircuitPermit, SettledCall};
use super::classification::{of_error, of_head, of_trailers};
use crate::body::frame_budget::FrameBudget;
use crate::error::BoxError;
use crate::policy::breaker::{CallResult, Caller};
use crate::policy::verdict::{Classifier, Health};
use crate::rt::clock;

/// Sends health probes for the open circuits of a layer.
pub(super) struct Prober {
    every: Duration,
    send: Arc<SendProbe>,
    alive: watch::Receiver<()>,
}

/// Sends the probe for the circuit of this key.
type SendProbe = dyn Fn(Option<&str>) -> ProbeCall + Send + Sync;
pub(super) type ProbeCall = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// Lets callers probe again if the task ends before the circuit closes.
struct HealthProbeGuard(Weak<Circuit>);

/// Sends one probe, up to the first data of its answer, which decides a caller's probe too.
pub(super) async fn probe<S, ReqB, ResB>(mut service: S, request: Request<ReqB>, classifier: Classifier) -> CallResult
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Error: std::error::Error + 'static>,
    ResB: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
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
    let mut budget = FrameBudget::new();
    while result.health == Health::Success {
        let next = poll_fn(|cx| {
            if budget.may_read(cx) {
                return body.as_mut().poll_frame(cx);
            }
            budget = FrameBudget::new();
            Poll::Pending
        });
        match next.await {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !data.is_empty()) => break,
            Some(Ok(frame)) => {
                result = frame.trailers_ref().map_or(result, |trailers| of_trailers(&classifier, trailers));
            }
            Some(Err(err)) => result = of_error(&classifier, &*err.into()),
            None => break,
        }
    }
    result
}

// === impl Prober ===

impl Prober {
    pub(super) fn new(
        every: Duration,
        alive: watch::Receiver<()>,
        send: impl Fn(Option<&str>) -> ProbeCall + Send + Sync + 'static,
    ) -> Self {
        Self { every, send: Arc::new(send), alive }
    }

    /// Begins to probe a circuit that has just opened, unless a task already does, or there is no runtime.
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

/// Probes until the circuit is no longer open, or the last service of the layer is gone.
async fn run_health_probes(
    mut guard: HealthProbeGuard,
    every: Duration,
    send: Arc<SendProbe>,
    mut alive: watch::Receiver<()>,
) {
    while while_alive(&mut alive, tokio::time::sleep(every)).await.is_some() {
        let Some(circuit) = guard.0.upgrade() else { return };
        if circuit.with(|machine| (machine.end_health_unless_open(), None)) {
            // If it opens again, another task probes it.
            guard.0 = Weak::new();
            return;
        }
        let Some(CircuitPermit { shard, grant }) = circuit.admit_health(clock::now()) else { continue };
        let probe = send(circuit.notifier.key().map(|key| &**key));
        // The probe may take long, and must not keep the circuit alive.
        drop(circuit);
        let start = clock::now();
        let Some(result) = while_alive(&mut alive, probe).await else { return };
        let now = clock::now();
        let counters = &shard.counters;
        let took = counters.nanos(now).elapsed_since(counters.nanos(start));
        let slow = counters.limits().has_slow() && counters.limits().is_slow(took);
        let (result, caller, waited) = (CallResult { slow, ..result }, Caller::Anonymous, took.as_duration());
        shard.settle(SettledCall { grant, result, caller, waited, now });
    }
}

/// Returns the result of `future`, unless the layer and all its services are dropped before.
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Waker};

    use http_body::Frame;
    use http_body_util::StreamBody;
    use tower::service_fn;

    use super::*;

    #[test]
    fn empty_frames_without_end_do_not_hold_the_task() {
        let answer = |_: Request<()>| async {
            let empty = (0..100_000).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::new())));
            Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(empty))))
        };
        let mut probe = pin!(probe(service_fn(answer), Request::new(()), Classifier::default()));
        let mut cx = Context::from_waker(Waker::noop());
        let turns = (1..10_000).find(|_| probe.as_mut().poll(&mut cx).is_ready());
        assert!(turns.is_some_and(|turns| turns > 100), "{turns:?} turns");
    }
}
