use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::either::EitherBody;
use crate::body::request::CallBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`StructuredOutput`](crate::structured_output::StructuredOutput): the upstream's, or the collected one.
    pub struct StructuredOutputBody<B> {
        #[pin]
        body: EitherBody<ResponseBody<B>, CallBody>,
    }
}

// === impl StructuredOutputBody ===

impl<B> StructuredOutputBody<B> {
    pub(super) fn inner(body: B) -> Self {
        Self { body: EitherBody::Inner { body: ResponseBody::inner(body) } }
    }

    pub(super) fn read(body: CallBody) -> Self {
        Self { body: EitherBody::Other { body } }
    }
}

impl<B> Body for StructuredOutputBody<B>
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

/// Without the data, which is the model's.
impl<B> fmt::Debug for StructuredOutputBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StructuredOutputBody").finish_non_exhaustive()
    }
}
