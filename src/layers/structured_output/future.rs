use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::body::StructuredOutputBody;
use crate::body::request::{CallBody, Handled, HandledFuture};

/// The future of [`StructuredOutput`](crate::structured_output::StructuredOutput).
pub type StructuredOutputFuture<S, B> = HandledFuture<S, CheckedCall<S, B>>;

/// A call whose answer is checked: boxed, since it is a call of a model, and may be several.
pub struct CheckedCall<S, B>
where
    S: Service<Request<CallBody>>,
{
    call: Pin<Box<Checked<B, S::Error>>>,
}

type Checked<B, E> = dyn Future<Output = Result<Response<StructuredOutputBody<B>>, E>> + Send;

// === impl CheckedCall ===

impl<S: Service<Request<CallBody>>, B> CheckedCall<S, B> {
    pub(super) fn new(
        call: impl Future<Output = Result<Response<StructuredOutputBody<B>>, S::Error>> + Send + 'static,
    ) -> Self {
        Self { call: Box::pin(call) }
    }
}

impl<S: Service<Request<CallBody>>, B> Future for CheckedCall<S, B> {
    type Output = Handled<S, Self, Result<Response<StructuredOutputBody<B>>, S::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.call.as_mut().poll(cx).map(ControlFlow::Break)
    }
}

/// Without the call, which holds a request.
impl<S: Service<Request<CallBody>>, B> fmt::Debug for CheckedCall<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckedCall")
    }
}
