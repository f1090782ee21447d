//! A call that a layer passes on, refuses, or handles.

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::CallBody;
use crate::body::response::LayerBody;
use crate::rejection::{Rejection, RejectionFormat};
use crate::rt::ready::ReadyCall;

pin_project! {
    /// The future of a layer that passes some calls on, refuses some, and handles the others.
    ///
    /// `H` is a future: a stage of a handled call, with its result, or what comes next.
    #[must_use = "futures do nothing unless polled"]
    pub struct HandledFuture<S, H>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<ReadyCall<S, Request<CallBody>>, H>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<C, H> {
        Passing { #[pin] call: C },
        Refused { refusal: Option<(Rejection, RejectionFormat)> },
        Handling { #[pin] handling: H },
    }
}

/// What comes next in a call.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for a moment")]
pub enum Next<S, H> {
    /// The request passes, and so does its answer.
    Pass(S, Request<CallBody>),
    Refuse(Rejection, RejectionFormat),
    Handle(H),
}

/// The result of a stage: that of the call, or what comes next.
pub(crate) type Handled<S, H, T> = ControlFlow<T, Next<S, H>>;

// === impl HandledFuture ===

impl<S, H> HandledFuture<S, H>
where
    S: Service<Request<CallBody>>,
{
    /// The layer is off, and its service, which was ready, was called.
    pub(crate) fn called(call: S::Future) -> Self {
        Self { stage: Stage::Passing { call: ReadyCall::called(call) } }
    }

    pub(crate) fn new(next: Next<S, H>) -> Self {
        Self { stage: Stage::of(next) }
    }
}

impl<S, H, B, T> Future for HandledFuture<S, H>
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    H: Future<Output = Handled<S, H, Result<Response<T>, S::Error>>>,
    T: LayerBody<B>,
{
    type Output = Result<Response<T>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let next = match stage.as_mut().project() {
                StageProj::Passing { call } => return call.poll(cx).map_ok(|response| response.map(T::inner)),
                StageProj::Refused { refusal } => {
                    // Polled again after its end.
                    let Some((rejection, format)) = refusal.take() else { return Poll::Pending };
                    return Poll::Ready(Ok(T::refuse(rejection, format)));
                }
                StageProj::Handling { handling } => match ready!(handling.poll(cx)) {
                    ControlFlow::Break(result) => {
                        // An answer may be there before the call has ended: this drops it.
                        stage.set(Stage::Refused { refusal: None });
                        return Poll::Ready(result);
                    }
                    ControlFlow::Continue(next) => next,
                },
            };
            // This drops the stage before.
            stage.set(Stage::of(next));
        }
    }
}

impl<S, H> fmt::Debug for HandledFuture<S, H>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Passing { .. } => "HandledFuture::Passing",
            Stage::Refused { .. } => "HandledFuture::Refused",
            Stage::Handling { .. } => "HandledFuture::Handling",
        })
    }
}

// === impl Stage ===

impl<S: Service<Request<CallBody>>, H> Stage<ReadyCall<S, Request<CallBody>>, H> {
    fn of(next: Next<S, H>) -> Self {
        match next {
            Next::Pass(service, request) => Self::Passing { call: ReadyCall::new(service, request) },
            Next::Refuse(rejection, format) => Self::Refused { refusal: Some((rejection, format)) },
            Next::Handle(handling) => Self::Handling { handling },
        }
    }
}
