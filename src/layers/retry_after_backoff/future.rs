use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::session::Session;
use crate::body::drain::Drain;
use crate::body::request::CallBody;
use crate::rt::clock;
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
        Wait { wait: Wait, #[pin] failed: Drain<ResB> },
        // For the service.
        Ready,
    }
}

/// Until when to wait, and until when to read the failed answer.
#[derive(Clone, Copy)]
struct Wait {
    /// `None`: beyond the clock's range.
    until: Option<Instant>,
    drain_until: Instant,
}

/// An error that takes longer is not worth its connection: it may hold an HTTP/2 stream or a place in a queue meanwhile.
const MAX_DRAIN: Duration = Duration::from_secs(1);

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
                    this.stage.set(Stage::Wait { wait: Wait::from_now(wait), failed });
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

// === impl Wait ===

impl Wait {
    fn from_now(wait: Duration) -> Self {
        let now = clock::now();
        Self { until: now.checked_add(wait), drain_until: now.checked_add(MAX_DRAIN).unwrap_or(now) }
    }

    fn stops_reading(self) -> Instant {
        self.until.map_or(self.drain_until, |until| until.min(self.drain_until))
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
