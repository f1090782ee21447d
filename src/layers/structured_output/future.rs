use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::StructuredOutputBody;
use crate::body::request::CallBody;
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::rt::ready::ReadyCall;

pin_project! {
    /// The future of [`StructuredOutput`](crate::structured_output::StructuredOutput).
    #[must_use = "futures do nothing unless polled"]
    pub struct StructuredOutputFuture<S, B>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<ReadyCall<S, Request<CallBody>>, Checked<B, S::Error>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, C> {
        // The layer is off, or has nothing to look for.
        Passing { #[pin] call: F },
        Checked { call: C },
    }
}

/// A call whose answer is checked: boxed, since it is a call of a model, and may be several.
pub(super) type Checked<B, E> = Pin<Box<dyn Future<Output = Result<Response<StructuredOutputBody<B>>, E>> + Send>>;

// === impl StructuredOutputFuture ===

impl<S, B> StructuredOutputFuture<S, B>
where
    S: Service<Request<CallBody>>,
{
    /// The inner service was called.
    pub(super) fn called(call: S::Future) -> Self {
        Self { stage: Stage::Passing { call: ReadyCall::called(call) } }
    }

    pub(super) fn passing(service: S, request: Request<CallBody>) -> Self {
        Self { stage: Stage::Passing { call: ReadyCall::new(service, request) } }
    }

    pub(super) fn checked(call: Checked<B, S::Error>) -> Self {
        Self { stage: Stage::Checked { call } }
    }
}

impl<S, B> Future for StructuredOutputFuture<S, B>
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<StructuredOutputBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().stage.project() {
            StageProj::Passing { call } => call.poll(cx).map_ok(|response| response.map(StructuredOutputBody::inner)),
            StageProj::Checked { call } => call.as_mut().poll(cx),
        }
    }
}

impl<S, B> fmt::Debug for StructuredOutputFuture<S, B>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StructuredOutputFuture")
    }
}
