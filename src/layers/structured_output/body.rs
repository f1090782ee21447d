use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::request::CallBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`StructuredOutput`](crate::structured_output::StructuredOutput): the upstream's as it comes, or what was read of it.
    pub struct StructuredOutputBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: ResponseBody<B> },
        Read { #[pin] body: CallBody },
    }
}

// === impl StructuredOutputBody ===

impl<B> StructuredOutputBody<B> {
    pub(super) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body: ResponseBody::inner(body) } }
    }

    pub(super) fn read(body: CallBody) -> Self {
        Self { kind: Kind::Read { body } }
    }
}

impl<B> Body for StructuredOutputBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Read { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Read { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Read { body } => body.size_hint(),
        }
    }
}

/// Without what was read, which is the model's.
impl<B> fmt::Debug for StructuredOutputBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StructuredOutputBody").finish_non_exhaustive()
    }
}
