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
use super::call::Call;
use super::circuit::Circuit;
use super::classification::of_error;
use super::config::CallConfig;
use super::future::CircuitBreakerFuture;
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
    shared: Option<Arc<Shared>>,
    /// Of this very clone of the service.
    readiness: Readiness,
}

/// What clones of a service share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) set: Arc<BreakerSet>,
    pub(super) calls: CallConfig,
}

/// Whether the inner service was polled since it was last called. Once it was, it may hold a place that others wait for, or
/// be the next to get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Unasked,
    Asked,
    Ready,
}

// === impl CircuitBreaker ===

impl<S> CircuitBreaker<S> {
    pub(super) fn new(inner: S, shared: Option<Arc<Shared>>) -> Self {
        Self { inner, shared, readiness: Readiness::Unasked }
    }

    /// The inner service.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service. Polled by hand, it must be ready before the breaker is called.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for CircuitBreaker<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    S::Error: std::error::Error + 'static,
    ReqB: Body,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<CircuitBreakerBody<ResB>>;
    type Error = S::Error;
    type Future = CircuitBreakerFuture<S, ReqB>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(shared) = &self.shared else { return self.inner.poll_ready(cx) };
        // The circuit is known when the request is; and where no call passes, or one only, no other is to wait for the
        // service.
        let Some(circuit) = shared.only().filter(|circuit| circuit.passes()) else { return Poll::Ready(Ok(())) };
        self.readiness = Readiness::Asked;
        let ready = ready!(self.inner.poll_ready(cx));
        match &ready {
            Ok(()) => self.readiness = Readiness::Ready,
            Err(err) => circuit.record_readiness_error(|| of_error(&shared.calls.classifier, err)),
        }
        Poll::Ready(ready)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let Some(shared) = &self.shared else {
            return CircuitBreakerFuture::calling(self.inner.call(request), None);
        };
        let Some(circuit) = shared.only() else { return self.call_keyed(shared, request) };
        let readiness = mem::replace(&mut self.readiness, Readiness::Unasked);
        if readiness == Readiness::Ready {
            if let Some(permit) = circuit.pass() {
                let mut call = Some(Call::new(permit, shared.calls.classifier.clone(), &request));
                let future = Call::run(&mut call, || self.inner.call(request));
                return CircuitBreakerFuture::calling(future, call);
            }
        }
        match circuit.admit(clock::now) {
            Ok(permit) => {
                let call = Call::new(permit, shared.calls.classifier.clone(), &request);
                // The one that was polled, if it was: a probe must not wait for a place that its own service holds.
                CircuitBreakerFuture::readying(take_ready(&mut self.inner), request, call)
            }
            Err(retry_after) => {
                if readiness != Readiness::Unasked {
                    // It is not called, and gives back the place that it may hold.
                    self.inner = self.inner.clone();
                }
                shared.refuse(retry_after, &request)
            }
        }
    }
}

impl<S> CircuitBreaker<S> {
    #[inline(never)]
    fn call_keyed<ReqB: Body>(&self, shared: &Shared, request: Request<ReqB>) -> CircuitBreakerFuture<S, ReqB>
    where
        S: Service<Request<ReqB>> + Clone,
    {
        let (parts, body) = request.into_parts();
        let key = shared.calls.key.as_ref().and_then(|key| (key.0)(&parts));
        let admission = shared.set.admit(key.as_deref());
        drop(key);
        let request = Request::from_parts(parts, body);
        match admission {
            Ok(permit) => {
                let call = Call::new(permit, shared.calls.classifier.clone(), &request);
                CircuitBreakerFuture::readying(self.inner.clone(), request, call)
            }
            Err(retry_after) => shared.refuse(retry_after, &request),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The only circuit, where calls have no keys.
    #[inline]
    fn only(&self) -> Option<&Circuit> {
        self.calls.key.is_none().then_some(self.set.unkeyed())
    }

    #[cold]
    fn refuse<S, ReqB>(&self, retry_after: Option<Duration>, request: &Request<ReqB>) -> CircuitBreakerFuture<S, ReqB>
    where
        S: Service<Request<ReqB>>,
    {
        self.calls.emitter.emit(&Event::Refused { kind: RejectionKind::CircuitOpen });
        CircuitBreakerFuture::refused(retry_after, RejectionFormat::of_request(request))
    }
}

impl<S: Clone> Clone for CircuitBreaker<S> {
    fn clone(&self) -> Self {
        // A clone has a readiness of its own.
        Self::new(self.inner.clone(), self.shared.clone())
    }
}
