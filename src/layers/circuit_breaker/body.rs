use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::call::Call;
use crate::body::boxed::Polled;
use crate::body::observed::Observed;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`CircuitBreaker`](crate::CircuitBreaker), which counts its call.
    #[derive(Debug)]
    pub struct CircuitBreakerBody<B> {
        #[pin]
        body: Observed<ResponseBody<B>, Call>,
    }
}

// === impl CircuitBreakerBody ===

impl<B> CircuitBreakerBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    #[inline]
    pub(super) fn new(body: ResponseBody<B>, call: Option<Call>) -> Self {
        Self { body: Observed::new(body, call) }
    }
}

impl<B> Body for CircuitBreakerBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
