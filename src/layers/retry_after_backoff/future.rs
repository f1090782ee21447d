use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::session::Session;
use crate::body::drain::Drain;
use crate::body::replay::ReplayBody;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

pin_project! {
    /// The future of [`RetryAfterBackoff`](crate::RetryAfterBackoff).
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryAfterBackoffFuture<S, ReqB, ResB>
    where
        S: Service<Request<ReplayBody<ReqB>>>,
    {
        #[pin]
        stage: Stage<S::Future, ResB>,
        // `None`: this is the only attempt.
        session: Option<Session<S, ReqB>>,
        timer: LazyTimer,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, ResB> {
        Attempt { #[pin] call: F },
        // The answer that failed is read to its end meanwhile, so that its connection can serve the next attempt.
        // Without end where that lies beyond what the clock can count.
        Wait { until: Option<Instant>, #[pin] failed: Drain<ResB> },
        // For the service.
        Ready,
    }
}

// === impl RetryAfterBackoffFuture ===

impl<S, ReqB, ResB> RetryAfterBackoffFuture<S, ReqB, ResB>
where
    S: Service<Request<ReplayBody<ReqB>>>,
{
    pub(super) fn passing(call: S::Future) -> Self {
        Self { stage: Stage::Attempt { call }, session: None, timer: LazyTimer::default() }
    }

    pub(super) fn attempting(call: S::Future, session: Session<S, ReqB>) -> Self {
        Self { stage: Stage::Attempt { call }, session: Some(session), timer: LazyTimer::default() }
    }
}

impl<S, ReqB, ResB> Future for RetryAfterBackoffFuture<S, ReqB, ResB>
where
    S: Service<Request<ReplayBody<ReqB>>, Response = Response<ResB>>,
    S::Error: Error + 'static,
    ReqB: Body<Data = Bytes> + Unpin + 'static,
    ResB: Body,
{
    type Output = Result<Response<ResB>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProj::Attempt { call } => {
                    let mut result = ready!(call.poll(cx));
                    let Some(wait) = this.session.as_mut().and_then(|session| session.judge(&mut result)) else {
                        return Poll::Ready(result);
                    };
                    let until = clock::now().checked_add(wait);
                    let failed = Drain::new(result.ok().map(Response::into_body));
                    this.stage.set(Stage::Wait { until, failed });
                }
                StageProj::Wait { until, failed } => {
                    failed.poll(cx);
                    let Some(until) = *until else { return Poll::Pending };
                    ready!(this.timer.poll_until(until, cx));
                    this.stage.set(Stage::Ready);
                }
                StageProj::Ready => {
                    // Without a session there is one attempt, which has been polled to its end.
                    let Some(session) = this.session else { return Poll::Pending };
                    ready!(session.service.poll_ready(cx))?;
                    let call = session.call_again();
                    this.stage.set(Stage::Attempt { call });
                }
            }
        }
    }
}

impl<S, ReqB, ResB> fmt::Debug for RetryAfterBackoffFuture<S, ReqB, ResB>
where
    S: Service<Request<ReplayBody<ReqB>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryAfterBackoffFuture").finish_non_exhaustive()
    }
}
