use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::GuardedBody;
use super::held::HeldPermit;
use super::{Admit, Permit, PermitEnd, Wait, Watch};
use crate::body::observed::DataLeft;
use crate::body::response::{LayerBody, ResponseBody};
use crate::error::BoxError;
use crate::proto::bodiless;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The future of [`Guarded`](super::Guarded).
    #[must_use = "futures do nothing unless polled"]
    pub struct GuardedFuture<S, A, ReqB>
    where
        S: Service<Request<ReqB>>,
        A: Admit,
    {
        // Dropped first: what the permit knows of the call is what was when its caller left.
        permit: HeldPermit<A::Permit>,
        // `None`: it has not begun, or never will.
        #[pin]
        call: Option<S::Future>,
        before: Option<Box<BeforeCall<S, S::Error, A, ReqB>>>,
        asks_for: AsksFor,
    }
}

// A byte would be copied with its neighbours, piece by piece.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AsksFor {
    Body,
    /// The answer to such a request is its head, or what comes after it is a tunnel.
    Head,
}

/// A call that was not sent. Boxed, so that every other future is not as large as a request.
enum BeforeCall<S, E, A: Admit, ReqB> {
    Parked(Parked<S, A, ReqB>),
    Refused(Rejection, RejectionFormat),
    /// The service was not ready, and will not be.
    Failed(E),
}

/// A call that waits, or whose service was not ready when it was admitted.
struct Parked<S, A: Admit, ReqB> {
    /// `None`: it is admitted. Dropped first, too.
    wait: Option<A::Wait>,
    service: S,
    request: Request<ReqB>,
}

/// What becomes of a call that was not sent.
enum Begin<F, E> {
    Call(F),
    Refused(Rejection, RejectionFormat),
    Failed(E),
}

// === impl GuardedFuture ===

impl<S, A, ReqB> GuardedFuture<S, A, ReqB>
where
    S: Service<Request<ReqB>>,
    A: Admit,
{
    /// A call that has begun.
    #[inline]
    pub(super) fn calling(call: S::Future, permit: HeldPermit<A::Permit>, asks_for: AsksFor) -> Self {
        Self { permit, call: Some(call), before: None, asks_for }
    }

    /// A call that begins when this service, which was not polled ready yet, is ready.
    pub(super) fn readying(service: S, request: Request<ReqB>, permit: HeldPermit<A::Permit>) -> Self {
        let asks_for = AsksFor::of(&request);
        Self { permit, asks_for, ..Self::before(BeforeCall::Parked(Parked { wait: None, service, request })) }
    }

    /// A call that begins when the wait is over, and then this service is ready.
    pub(super) fn waiting(wait: A::Wait, service: S, request: Request<ReqB>) -> Self {
        let asks_for = AsksFor::of(&request);
        Self { asks_for, ..Self::before(BeforeCall::Parked(Parked { wait: Some(wait), service, request })) }
    }

    #[cold]
    pub(super) fn refused(rejection: Rejection, request: &Request<ReqB>) -> Self {
        Self::before(BeforeCall::Refused(rejection, RejectionFormat::of_request(request)))
    }

    #[cold]
    pub(super) fn failed(err: S::Error, mut permit: HeldPermit<A::Permit>) -> Self
    where
        S::Error: std::error::Error + 'static,
    {
        permit.end(PermitEnd::Failed(&err));
        Self::before(BeforeCall::Failed(err))
    }

    fn before(before: BeforeCall<S, S::Error, A, ReqB>) -> Self {
        Self { permit: HeldPermit::new(None), call: None, before: Some(Box::new(before)), asks_for: AsksFor::Body }
    }
}

impl AsksFor {
    #[inline]
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        if bodiless::to_method(request.method()) { Self::Head } else { Self::Body }
    }
}

impl<S, E, A, ReqB> BeforeCall<S, E, A, ReqB>
where
    S: Service<Request<ReqB>, Error = E>,
    E: std::error::Error + 'static,
    A: Admit,
{
    /// Polls a call that was not sent until it can be, or never will.
    #[inline(never)]
    fn poll(
        before: &mut Option<Box<Self>>,
        permit: &mut HeldPermit<A::Permit>,
        cx: &mut Context<'_>,
    ) -> Poll<Begin<S::Future, E>> {
        if let Some(Self::Parked(Parked { wait: waits, service, request })) = before.as_deref_mut() {
            if let Some(wait) = waits {
                match ready!(wait.poll(cx)) {
                    Ok(granted) => *permit = HeldPermit::new(Some(granted)),
                    Err(rejection) => {
                        let format = RejectionFormat::of_request(request);
                        *before = None;
                        return Poll::Ready(Begin::Refused(rejection, format));
                    }
                }
                *waits = None;
            }
            if let Err(err) = ready!(permit.poll(cx, |cx| service.poll_ready(cx))) {
                permit.end(PermitEnd::Failed(&err));
                *before = None;
                return Poll::Ready(Begin::Failed(err));
            }
        }
        let Some(before) = before.take() else { return Poll::Pending };
        Poll::Ready(match *before {
            Self::Parked(Parked { mut service, request, .. }) => {
                let unwinding = permit.begin_call();
                let call = service.call(request);
                unwinding.returned();
                Begin::Call(call)
            }
            Self::Refused(rejection, format) => Begin::Refused(rejection, format),
            Self::Failed(err) => Begin::Failed(err),
        })
    }
}

impl<S, A, ReqB, ResB> Future for GuardedFuture<S, A, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: std::error::Error + 'static,
    A: Admit,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<GuardedBody<ResB, A::Permit>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.before.is_some() {
            match ready!(BeforeCall::poll(this.before, this.permit, cx)) {
                Begin::Call(call) => this.call.set(Some(call)),
                Begin::Refused(rejection, format) => return Poll::Ready(Ok(GuardedBody::refuse(rejection, format))),
                Begin::Failed(err) => return Poll::Ready(Err(err)),
            }
        }
        // Polled once more after a refusal, or its service panicked: nothing will come.
        let Some(call) = this.call.as_pin_mut() else { return Poll::Pending };
        let held = this.permit;
        let mut polled = held.poll(cx, |cx| call.poll(cx));
        let (permit, left) = match &mut polled {
            Poll::Ready(Ok(response)) => {
                let permit = watch(response, held, *this.asks_for);
                let left = if permit.is_empty() { DataLeft::Unknown } else { DataLeft::of(response.body()) };
                (permit, left)
            }
            Poll::Ready(Err(err)) => {
                held.end(PermitEnd::Failed(err));
                (HeldPermit::new(None), DataLeft::Unknown)
            }
            Poll::Pending => return Poll::Pending,
        };
        match polled {
            Poll::Ready(Ok(response)) => {
                let body = |body| GuardedBody::new(ResponseBody::inner(body), permit, left);
                Poll::Ready(Ok(response.map(body)))
            }
            Poll::Ready(Err(err)) => Poll::Ready(Err(err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The head is here. What sees the body end, where that matters still.
#[inline]
fn watch<B: Body, P: Permit>(response: &mut Response<B>, held: &mut HeldPermit<P>, asks_for: AsksFor) -> HeldPermit<P> {
    let Some(permit) = held.get_mut() else { return HeldPermit::new(None) };
    let has_body =
        asks_for == AsksFor::Body && !bodiless::with_status(response.status()) && !response.body().is_end_stream();
    let watch = permit.head(response, has_body);
    if watch == Watch::Nothing || !has_body {
        held.end(PermitEnd::Head);
        return HeldPermit::new(None);
    }
    held.take()
}

impl<S, A, ReqB> fmt::Debug for GuardedFuture<S, A, ReqB>
where
    S: Service<Request<ReqB>>,
    A: Admit,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.before.as_deref() {
            None => "calling",
            Some(BeforeCall::Parked(Parked { wait: Some(_), .. })) => "waiting",
            Some(BeforeCall::Parked(_)) => "readying",
            Some(BeforeCall::Refused(..)) => "refused",
            Some(BeforeCall::Failed(_)) => "failed",
        };
        f.debug_struct("GuardedFuture").field("stage", &stage).finish_non_exhaustive()
    }
}
