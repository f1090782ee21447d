use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::{CircuitBreakerBody, Watching};
use super::circuit::Started;
use super::permit::{PanicGuard, Permit};
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::policy::breaker::CallResult;
use crate::policy::verdict::Health;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;

pin_project! {
    /// The future of [`CircuitBreaker`](crate::CircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct CircuitBreakerFuture<S, ReqB>
    where
        S: Service<Request<ReqB>>,
    {
        #[pin]
        stage: Stage<S, S::Future, ReqB>,
        // `None`: the layer is off, or it has been told already how the call ended.
        permit: Option<Permit>,
        started: Started,
        // Whoever asked so reads no body, whatever there is of one.
        asks_for_head: bool,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F, ReqB> {
        // The service has not been ready yet: the permit was given first.
        Readying { unready: Box<Unready<S, ReqB>> },
        Calling { #[pin] call: F },
        Refused { retry_after: Option<Duration>, wire: RejectionFormat },
    }
}

/// Boxed: a call that waits like this is a probe, or has a key, and should not make every other future as large as a
/// request.
struct Unready<S, ReqB> {
    service: S,
    /// Taken when it is sent.
    request: Option<Request<ReqB>>,
}

// === impl CircuitBreakerFuture ===

impl<S, ReqB> CircuitBreakerFuture<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    /// A call that has begun.
    #[inline]
    pub(super) fn calling(call: S::Future, permit: Option<Permit>, started: Started, asks_for_head: bool) -> Self {
        Self { stage: Stage::Calling { call }, permit, started, asks_for_head }
    }

    /// A call that begins when this service, which nobody has polled yet, is ready.
    pub(super) fn readying(service: S, request: Request<ReqB>, permit: Permit) -> Self {
        let (started, asks_for_head) = (permit.lane().start(), asks_for_head(&request));
        let unready = Box::new(Unready { service, request: Some(request) });
        Self { stage: Stage::Readying { unready }, permit: Some(permit), started, asks_for_head }
    }

    #[cold]
    pub(super) fn refused(retry_after: Option<Duration>, wire: RejectionFormat) -> Self {
        let stage = Stage::Refused { retry_after, wire };
        Self { stage, permit: None, started: Started::default(), asks_for_head: false }
    }
}

impl<S, ReqB, ResB> Future for CircuitBreakerFuture<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: std::error::Error + 'static,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<CircuitBreakerBody<ResB>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProj::Calling { call } => {
                    let polled = Permit::poll(this.permit, cx, |cx| call.poll(cx));
                    let watching = match &polled {
                        Poll::Ready(Ok(response)) => judge(response, this.permit, *this.started, *this.asks_for_head),
                        Poll::Ready(Err(err)) => fail(err, this.permit, *this.started),
                        Poll::Pending => return Poll::Pending,
                    };
                    let watched = |body| CircuitBreakerBody::new(ResponseBody::inner(body), watching);
                    return polled.map_ok(|response| response.map(watched));
                }
                StageProj::Readying { unready } => {
                    let Unready { service, request } = &mut **unready;
                    if let Err(err) = ready!(Permit::poll(this.permit, cx, |cx| service.poll_ready(cx))) {
                        fail(&err, this.permit, *this.started);
                        return Poll::Ready(Err(err));
                    }
                    // Sent before, and that panicked: nothing will come.
                    let Some(request) = request.take() else { return Poll::Pending };
                    let unwinding = PanicGuard::of(this.permit);
                    let call = service.call(request);
                    unwinding.over();
                    this.stage.set(Stage::Calling { call });
                }
                StageProj::Refused { retry_after, wire } => return Poll::Ready(Ok(refuse(*retry_after, *wire))),
            }
        }
    }
}

/// Whether the answer to this request is its head, or what comes after it is a tunnel.
#[inline]
pub(super) fn asks_for_head<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::HEAD | Method::CONNECT)
}

/// The head is here. Who sees the body end, where that matters still.
#[inline]
fn judge<B: Body>(
    response: &Response<B>,
    permit: &mut Option<Permit>,
    started: Started,
    asks_for_head: bool,
) -> Option<Watching> {
    use StatusCode as Is;
    let ended = permit.as_ref()?.lane().judge.head(response);
    let permit = permit.take()?;
    let bodiless = asks_for_head
        || matches!(response.status(), Is::SWITCHING_PROTOCOLS | Is::NO_CONTENT | Is::RESET_CONTENT | Is::NOT_MODIFIED);
    // What is known from the head needs no body: its reader may not want to read it.
    if ended.health != Health::Success || bodiless || response.body().is_end_stream() {
        settle(&permit, ended, started);
        return None;
    }
    if let Some(probe) = permit.probe() {
        probe.rests();
    }
    let awaits_status = permit.lane().judge.awaits_status(response);
    Some(Watching::new(permit, started, awaits_status))
}

/// There will be no head, and nothing to watch.
#[cold]
fn fail<E: std::error::Error + 'static>(err: &E, permit: &mut Option<Permit>, started: Started) -> Option<Watching> {
    let permit = permit.take()?;
    let ended = permit.lane().judge.error(err);
    settle(&permit, ended, started);
    None
}

#[cold]
fn settle(permit: &Permit, ended: CallResult, started: Started) {
    let slow = permit.lane().is_slow(started);
    permit.settle(CallResult { slow, ..ended }, clock::now());
}

#[cold]
fn refuse<B>(retry_after: Option<Duration>, wire: RejectionFormat) -> Response<CircuitBreakerBody<B>>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let rejection = Rejection::new(RejectionKind::CircuitOpen);
    let rejection = match retry_after {
        Some(wait) => rejection.with_retry_after(wait),
        None => rejection,
    };
    ResponseBody::refuse(rejection, wire).map(|body| CircuitBreakerBody::new(body, None))
}

impl<S, ReqB> fmt::Debug for CircuitBreakerFuture<S, ReqB>
where
    S: Service<Request<ReqB>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Readying { .. } => "readying",
            Stage::Calling { .. } => "calling",
            Stage::Refused { .. } => "refused",
        };
        f.debug_struct("CircuitBreakerFuture").field("stage", &stage).field("permit", &self.permit).finish()
    }
}
