use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::prefixed::{PrefixedBody, ReadAhead};
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The response body of [`FirstByteTimeout`](crate::first_byte_timeout::FirstByteTimeout).
    #[derive(Debug)]
    pub struct FirstByteTimeoutBody<B> {
        #[pin]
        body: PrefixedBody<ResponseBody<B>>,
    }
}

// === impl FirstByteTimeoutBody ===

impl<B> FirstByteTimeoutBody<B> {
    /// What was withheld, then the rest.
    pub(super) fn resume(held: ReadAhead, rest: ResponseBody<B>) -> Self {
        Self { body: held.before(rest) }
    }

    #[cold]
    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| Self::resume(ReadAhead::default(), body))
    }

    pub(super) fn pass(response: Response<B>) -> Response<Self> {
        response.map(|body| Self::resume(ReadAhead::default(), ResponseBody::inner(body)))
    }
}

impl<B> Body for FirstByteTimeoutBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
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
