use std::fmt;
use std::mem;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::GuardedBody;
use super::future::{AsksFor, GuardedFuture};
use super::held::HeldPermit;
use super::{Admission, Admit};
use crate::error::BoxError;
use crate::rt::ready::take_ready;

/// A service behind a gate that admits calls, makes them wait, or refuses them.
pub struct Guarded<S, A> {
    inner: S,
    /// `None`: the layer is off.
    gate: Option<A>,
    /// The readiness of this clone of the service.
    readiness: Readiness,
}

/// The inner service's readiness since it was last called. A service that was polled may hold a place that others wait
/// for, or be next in line for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Unasked,
    Asked,
    Ready,
}

// === impl Guarded ===

impl<S, A> Guarded<S, A> {
    pub(crate) fn new(inner: S, gate: Option<A>) -> Self {
        Self { inner, gate, readiness: Readiness::Unasked }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside. The layer does not notice readiness that is polled here.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, A, ReqB, ResB> Service<Request<ReqB>> for Guarded<S, A>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    S::Error: std::error::Error + 'static,
    A: Admit,
    ReqB: Body + 'static,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<GuardedBody<ResB, A::Permit>>;
    type Error = S::Error;
    type Future = GuardedFuture<S, A, ReqB>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(gate) = &self.gate else { return self.inner.poll_ready(cx) };
        if !gate.is_open() {
            return Poll::Ready(Ok(()));
        }
        self.readiness = Readiness::Asked;
        let ready = ready!(self.inner.poll_ready(cx));
        match &ready {
            Ok(()) => self.readiness = Readiness::Ready,
            Err(err) => gate.not_ready(err),
        }
        Poll::Ready(ready)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        match &self.gate {
            Some(gate) => Self::admit(gate, &mut self.readiness, &mut self.inner, request),
            None => GuardedFuture::calling(self.inner.call(request), HeldPermit::new(None), AsksFor::Body),
        }
    }
}

impl<S, A> Guarded<S, A>
where
    S: Clone,
    A: Admit,
{
    /// Calls the service, if the gate admits the call. Apart: a request that was lent to a gate is copied when it is sent.
    #[inline(never)]
    fn admit<ReqB, ResB>(
        gate: &A,
        readiness: &mut Readiness,
        inner: &mut S,
        mut request: Request<ReqB>,
    ) -> GuardedFuture<S, A, ReqB>
    where
        S: Service<Request<ReqB>, Response = Response<ResB>>,
        S::Error: std::error::Error + 'static,
        ReqB: Body + 'static,
    {
        let readiness = mem::replace(readiness, Readiness::Unasked);
        let permit = match gate.admit(&mut request) {
            Admission::Pass(permit) => Some(permit),
            Admission::Aside => None,
            Admission::Wait(wait) => {
                give_back(inner, readiness);
                return GuardedFuture::waiting(wait, inner.clone(), request);
            }
            Admission::Refuse(rejection) => {
                give_back(inner, readiness);
                return GuardedFuture::refused(rejection, &request);
            }
        };
        let mut permit = HeldPermit::new(permit);
        if readiness != Readiness::Ready {
            // Most are ready, and then the call needs no box. Otherwise the call's task polls again.
            match permit.poll(&mut Context::from_waker(Waker::noop()), |cx| inner.poll_ready(cx)) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(err)) => return GuardedFuture::failed(err, permit),
                // The polled clone itself: a call must not wait for a place that its own service holds.
                Poll::Pending => return GuardedFuture::readying(take_ready(inner), request, permit),
            }
        }
        let asks_for = AsksFor::of(&request);
        let unwinding = permit.begin_call();
        let call = inner.call(request);
        unwinding.returned();
        GuardedFuture::calling(call, permit, asks_for)
    }
}

/// The service is not called: returns the place that it may hold.
fn give_back<S: Clone>(inner: &mut S, readiness: Readiness) {
    if readiness != Readiness::Unasked {
        *inner = inner.clone();
    }
}

impl<S: Clone, A: Clone> Clone for Guarded<S, A> {
    fn clone(&self) -> Self {
        // A clone has its own readiness.
        Self::new(self.inner.clone(), self.gate.clone())
    }
}

impl<S: fmt::Debug, A: fmt::Debug> fmt::Debug for Guarded<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("inner", &self.inner).field("gate", &self.gate).finish()
    }
}
