use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::CircuitBreakerBody;
use super::breaker_set::BreakerSet;
use super::circuit::Started;
use super::future::{CircuitBreakerFuture, asks_for_head};
use super::permit::{PanicGuard, Permit};
use crate::error::BoxError;
use crate::event::Event;
use crate::rejection::{RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::ready::take_ready;

/// Refuses calls to a service that has been failing. See [`CircuitBreakerLayer`](crate::CircuitBreakerLayer).
#[derive(Debug)]
pub struct CircuitBreaker<S> {
    inner: S,
    // `None`: the layer is off.
    breakers: Option<Arc<BreakerSet>>,
    /// Of this very clone of the service.
    readiness: Readiness,
}

/// What the inner service was asked since it was last called, and said. It may hold a place that others wait for, or be
/// the next to get one, once it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Unasked,
    Asked,
    Ready,
}

// === impl CircuitBreaker ===

impl<S> CircuitBreaker<S> {
    pub(super) fn new(inner: S, breakers: Option<Arc<BreakerSet>>) -> Self {
        Self { inner, breakers, readiness: Readiness::Unasked }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for CircuitBreaker<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    S::Error: std::error::Error + 'static,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<CircuitBreakerBody<ResB>>;
    type Error = S::Error;
    type Future = CircuitBreakerFuture<S, ReqB>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(breakers) = &self.breakers else { return self.inner.poll_ready(cx) };
        // Which circuit it will be is known when the request is; and where nothing passes, or one call only, nobody
        // else is to wait for the service.
        let Some(circuit) = breakers.only().filter(|circuit| circuit.passes()) else { return Poll::Ready(Ok(())) };
        self.readiness = Readiness::Asked;
        let ready = ready!(self.inner.poll_ready(cx));
        match &ready {
            Ok(()) => self.readiness = Readiness::Ready,
            Err(err) => circuit.blame(err),
        }
        Poll::Ready(ready)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let Some(breakers) = &self.breakers else {
            return CircuitBreakerFuture::calling(self.inner.call(request), None, Started::default(), false);
        };
        let Some(circuit) = breakers.only() else { return self.call_keyed(breakers, request) };
        let readiness = mem::replace(&mut self.readiness, Readiness::Unasked);
        if readiness == Readiness::Ready {
            if let Some((lane, generation)) = circuit.pass() {
                let (started, asks_for_head) = (lane.start(), asks_for_head(&request));
                let mut permit = Some(Permit::Call { lane, generation });
                let unwinding = PanicGuard::of(&mut permit);
                let call = self.inner.call(request);
                unwinding.over();
                return CircuitBreakerFuture::calling(call, permit, started, asks_for_head);
            }
        }
        match circuit.admit(clock::now) {
            // The one that was asked, if it was: a probe must not wait for a place that its own service holds.
            Ok(permit) => CircuitBreakerFuture::readying(take_ready(&mut self.inner), request, permit),
            Err(retry_after) => {
                if readiness != Readiness::Unasked {
                    // It is not called. What it holds, it gives back.
                    self.inner = self.inner.clone();
                }
                breakers.refuse(retry_after, &request)
            }
        }
    }
}

impl<S> CircuitBreaker<S> {
    #[inline(never)]
    fn call_keyed<ReqB>(&self, breakers: &BreakerSet, request: Request<ReqB>) -> CircuitBreakerFuture<S, ReqB>
    where
        S: Service<Request<ReqB>> + Clone,
    {
        let (parts, body) = request.into_parts();
        let admission = breakers.admit_keyed(&parts);
        let request = Request::from_parts(parts, body);
        match admission {
            Ok(permit) => CircuitBreakerFuture::readying(self.inner.clone(), request, permit),
            Err(retry_after) => breakers.refuse(retry_after, &request),
        }
    }
}

impl BreakerSet {
    fn refuse<S, ReqB>(&self, retry_after: Option<Duration>, request: &Request<ReqB>) -> CircuitBreakerFuture<S, ReqB>
    where
        S: Service<Request<ReqB>>,
    {
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::CircuitOpen });
        CircuitBreakerFuture::refused(retry_after, RejectionFormat::of_request(request))
    }
}

impl<S: Clone> Clone for CircuitBreaker<S> {
    fn clone(&self) -> Self {
        // A clone has a readiness of its own.
        Self::new(self.inner.clone(), self.breakers.clone())
    }
}
