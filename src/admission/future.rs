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
use crate::body::response::ResponseBody;
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
        #[pin]
        stage: Stage<S, S::Future, S::Error, A, ReqB>,
        // The answer to such a request is its head, or what comes after it is a tunnel.
        asks_for_head: bool,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F, E, A: Admit, ReqB> {
        Parked { parked: Box<Parked<S, A, ReqB>> },
        Calling {
            // Dropped first: what the permit knows of the call is what was when its caller left.
            permit: HeldPermit<A::Permit>,
            #[pin]
            call: F,
        },
        Refused { rejection: Option<Rejection>, format: RejectionFormat },
        Failed { err: Option<Box<E>> },
    }
}

/// A call that waits, or whose service was not ready when it was admitted. Boxed, so that every other future is not as
/// large as a request.
struct Parked<S, A: Admit, ReqB> {
    /// Dropped first, too.
    before: BeforeCall<A>,
    service: S,
    /// Taken when it is sent.
    request: Option<Request<ReqB>>,
}

/// What a call has that was not sent yet. In one place: a line may be long.
enum BeforeCall<A: Admit> {
    Waiting(A::Wait),
    Admitted(HeldPermit<A::Permit>),
}

// === impl GuardedFuture ===

impl<S, A, ReqB> GuardedFuture<S, A, ReqB>
where
    S: Service<Request<ReqB>>,
    A: Admit,
{
    /// A call that has begun.
    #[inline]
    pub(super) fn calling(call: S::Future, permit: HeldPermit<A::Permit>, asks_for_head: bool) -> Self {
        Self { stage: Stage::Calling { permit, call }, asks_for_head }
    }

    /// A call that begins when this service, which was not polled ready yet, is ready.
    pub(super) fn readying(service: S, request: Request<ReqB>, permit: HeldPermit<A::Permit>) -> Self {
        Self::parked(BeforeCall::Admitted(permit), service, request)
    }

    /// A call that begins when the wait is over, and then this service is ready.
    pub(super) fn waiting(wait: A::Wait, service: S, request: Request<ReqB>) -> Self {
        Self::parked(BeforeCall::Waiting(wait), service, request)
    }

    fn parked(before: BeforeCall<A>, service: S, request: Request<ReqB>) -> Self {
        let asks_for_head = bodiless::to_method(request.method());
        let parked = Box::new(Parked { before, service, request: Some(request) });
        Self { stage: Stage::Parked { parked }, asks_for_head }
    }

    #[cold]
    pub(super) fn refused(rejection: Rejection, request: &Request<ReqB>) -> Self {
        let stage = Stage::Refused { rejection: Some(rejection), format: RejectionFormat::of_request(request) };
        Self { stage, asks_for_head: false }
    }

    /// The service was not ready, and will not be.
    #[cold]
    pub(super) fn failed(err: S::Error, mut permit: HeldPermit<A::Permit>) -> Self
    where
        S::Error: std::error::Error + 'static,
    {
        permit.end(PermitEnd::Failed(&err));
        Self { stage: Stage::Failed { err: Some(Box::new(err)) }, asks_for_head: false }
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
        loop {
            match this.stage.as_mut().project() {
                StageProj::Calling { permit: held, call } => {
                    let mut polled = held.poll(cx, |cx| call.poll(cx));
                    let permit = match &mut polled {
                        Poll::Ready(Ok(response)) => watch(response, held, *this.asks_for_head),
                        Poll::Ready(Err(err)) => {
                            held.end(PermitEnd::Failed(err));
                            HeldPermit::new(None)
                        }
                        Poll::Pending => return Poll::Pending,
                    };
                    return polled
                        .map_ok(|response| response.map(|body| GuardedBody::new(ResponseBody::inner(body), permit)));
                }
                StageProj::Parked { parked } => {
                    let Parked { before, service, request } = &mut **parked;
                    let permit = match before {
                        BeforeCall::Admitted(permit) => permit,
                        BeforeCall::Waiting(wait) => {
                            match ready!(wait.poll(cx)) {
                                Ok(granted) => *before = BeforeCall::Admitted(HeldPermit::new(Some(granted))),
                                Err(rejection) => {
                                    let format =
                                        request.as_ref().map_or(RejectionFormat::Http, RejectionFormat::of_request);
                                    this.stage.set(Stage::Refused { rejection: Some(rejection), format });
                                }
                            }
                            continue;
                        }
                    };
                    if let Err(err) = ready!(permit.poll(cx, |cx| service.poll_ready(cx))) {
                        permit.end(PermitEnd::Failed(&err));
                        return Poll::Ready(Err(err));
                    }
                    // Sent before, and that panicked: nothing will come.
                    let Some(request) = request.take() else { return Poll::Pending };
                    let call = permit.call(|| service.call(request));
                    let permit = permit.take();
                    this.stage.set(Stage::Calling { permit, call });
                }
                // Polled once more after it was ready: nothing will come.
                StageProj::Refused { rejection, format } => {
                    let Some(rejection) = rejection.take() else { return Poll::Pending };
                    return Poll::Ready(Ok(refuse(rejection, *format)));
                }
                StageProj::Failed { err } => {
                    let Some(err) = err.take() else { return Poll::Pending };
                    return Poll::Ready(Err(*err));
                }
            }
        }
    }
}

/// The head is here. What sees the body end, where that matters still.
#[inline]
fn watch<B: Body, P: Permit>(
    response: &mut Response<B>,
    held: &mut HeldPermit<P>,
    asks_for_head: bool,
) -> HeldPermit<P> {
    let Some(permit) = held.get_mut() else { return HeldPermit::new(None) };
    let has_body = !asks_for_head && !bodiless::with_status(response.status()) && !response.body().is_end_stream();
    let watch = permit.head(response, has_body);
    if watch == Watch::Nothing || !has_body {
        held.end(PermitEnd::Head);
    }
    held.take()
}

#[cold]
fn refuse<B, P>(rejection: Rejection, format: RejectionFormat) -> Response<GuardedBody<B, P>>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
    P: Permit,
{
    ResponseBody::refuse(rejection, format).map(|body| GuardedBody::new(body, HeldPermit::new(None)))
}

impl<S, A, ReqB> fmt::Debug for GuardedFuture<S, A, ReqB>
where
    S: Service<Request<ReqB>>,
    A: Admit,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Parked { parked } if matches!(parked.before, BeforeCall::Waiting(_)) => "waiting",
            Stage::Parked { .. } => "readying",
            Stage::Calling { .. } => "calling",
            Stage::Refused { .. } => "refused",
            Stage::Failed { .. } => "failed",
        };
        f.debug_struct("GuardedFuture").field("stage", &stage).finish_non_exhaustive()
    }
}
