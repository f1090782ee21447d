use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::CircuitBreakerBody;
use super::call::Call;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};

pin_project! {
    /// The future of [`CircuitBreaker`](crate::CircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct CircuitBreakerFuture<S, ReqB>
    where
        S: Service<Request<ReqB>>,
    {
        #[pin]
        stage: Stage<S, S::Future, ReqB>,
        // `None`: the layer is off, or the call has been counted.
        call: Option<Call>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F, ReqB> {
        // The service has not been ready yet: the permit was given first.
        Readying { unready: Box<Unready<S, ReqB>> },
        Calling { #[pin] future: F },
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
    pub(super) fn calling(future: S::Future, call: Option<Call>) -> Self {
        Self { stage: Stage::Calling { future }, call }
    }

    /// A call that begins when this service is ready, which has not been polled yet.
    pub(super) fn readying(service: S, request: Request<ReqB>, call: Call) -> Self {
        let unready = Box::new(Unready { service, request: Some(request) });
        Self { stage: Stage::Readying { unready }, call: Some(call) }
    }

    #[cold]
    pub(super) fn refused(retry_after: Option<Duration>, wire: RejectionFormat) -> Self {
        Self { stage: Stage::Refused { retry_after, wire }, call: None }
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
                StageProj::Calling { future } => {
                    let polled = ready!(match &mut *this.call {
                        Some(call) => call.poll(cx, |cx| future.poll(cx)),
                        None => future.poll(cx),
                    });
                    let call = match &polled {
                        Ok(response) => this.call.take().and_then(|call| call.head(response)),
                        Err(err) => {
                            fail(this.call, err);
                            None
                        }
                    };
                    let observed = |body| CircuitBreakerBody::new(ResponseBody::inner(body), call);
                    return Poll::Ready(polled.map(|response| response.map(observed)));
                }
                StageProj::Readying { unready } => {
                    let Unready { service, request } = &mut **unready;
                    if let Err(err) = ready!(Call::run(this.call, || service.poll_ready(cx))) {
                        fail(this.call, &err);
                        return Poll::Ready(Err(err));
                    }
                    // Sent before, and that panicked: nothing will come.
                    let Some(request) = request.take() else { return Poll::Pending };
                    let future = Call::run(this.call, || service.call(request));
                    this.stage.set(Stage::Calling { future });
                }
                StageProj::Refused { retry_after, wire } => return Poll::Ready(Ok(refuse(*retry_after, *wire))),
            }
        }
    }
}

#[cold]
fn fail<E: std::error::Error + 'static>(call: &mut Option<Call>, err: &E) {
    if let Some(call) = call.take() {
        call.fail(err);
    }
}

#[cold]
fn refuse<B>(retry_after: Option<Duration>, wire: RejectionFormat) -> Response<CircuitBreakerBody<B>>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let mut rejection = Rejection::new(RejectionKind::CircuitOpen);
    if let Some(wait) = retry_after {
        rejection = rejection.with_retry_after(wait);
    }
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
        f.debug_struct("CircuitBreakerFuture").field("stage", &stage).finish_non_exhaustive()
    }
}
