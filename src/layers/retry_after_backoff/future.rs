use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::session::{RetryWait, Session};
use crate::body::drain::Drain;
use crate::body::request::CallBody;
use crate::rt::timer::LazyTimer;

pin_project! {
    /// The future of [`RetryAfterBackoff`](crate::retry_after_backoff::RetryAfterBackoff).
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryAfterBackoffFuture<S, ResB>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S::Future, ResB>,
        // `None`: this is the only attempt.
        session: Option<Session<S>>,
        timer: LazyTimer,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, ResB> {
        Attempt { #[pin] call: F },
        // The failed answer is read meanwhile, so that the next attempt can use its connection.
        Wait { wait: RetryWait, #[pin] failed: Drain<ResB> },
        // For the service.
        Ready,
    }
}

// === impl RetryAfterBackoffFuture ===

impl<S, ResB> RetryAfterBackoffFuture<S, ResB>
where
    S: Service<Request<CallBody>>,
{
    pub(super) fn passing(call: S::Future) -> Self {
        Self { stage: Stage::Attempt { call }, session: None, timer: LazyTimer::default() }
    }

    pub(super) fn attempting(call: S::Future, session: Session<S>) -> Self {
        Self { stage: Stage::Attempt { call }, session: Some(session), timer: LazyTimer::default() }
    }
}

impl<S, ResB> Future for RetryAfterBackoffFuture<S, ResB>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Error: Error + 'static>,
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
                    let failed = Drain::new(result.ok().map(Response::into_body));
                    this.stage.set(Stage::Wait { wait, failed });
                }
                StageProj::Wait { wait, mut failed } => {
                    if failed.as_mut().poll(cx).is_pending() {
                        ready!(this.timer.poll_until(wait.stops_reading(), cx));
                        failed.stop();
                    }
                    let Some(until) = wait.until else { return Poll::Pending };
                    ready!(this.timer.poll_until(until, cx));
                    this.stage.set(Stage::Ready);
                }
                StageProj::Ready => {
                    // Without a session there is one attempt, which has been polled to its end.
                    let Some(session) = this.session else { return Poll::Pending };
                    ready!(session.service.poll_ready(cx)).inspect_err(|_| session.report(true))?;
                    let call = session.call_again();
                    this.stage.set(Stage::Attempt { call });
                }
            }
        }
    }
}

impl<S, ResB> fmt::Debug for RetryAfterBackoffFuture<S, ResB>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryAfterBackoffFuture").finish_non_exhaustive()
    }
}
