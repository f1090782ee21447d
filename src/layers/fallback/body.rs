use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The response body of [`Fallback`](crate::fallback::Fallback): the primary's, or the backup's.
    #[derive(Debug)]
    pub struct FallbackBody<A, B> {
        #[pin]
        body: Either<A, B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = EitherProj]
    enum Either<A, B> {
        Primary { #[pin] body: ResponseBody<A> },
        Backup { #[pin] body: ResponseBody<B> },
    }
}

// === impl FallbackBody ===

impl<A, B> FallbackBody<A, B> {
    pub(super) fn primary(body: A) -> Self {
        Self { body: Either::Primary { body: ResponseBody::inner(body) } }
    }

    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| Self { body: Either::Primary { body } })
    }

    pub(super) fn backup(body: B) -> Self {
        Self { body: Either::Backup { body: ResponseBody::inner(body) } }
    }
}

impl<A, B> Body for FallbackBody<A, B>
where
    A: Body<Data = Bytes> + 'static,
    A::Error: Into<BoxError> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project().body.project() {
            EitherProj::Primary { body } => body.poll_frame(cx),
            EitherProj::Backup { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Either::Primary { body } => body.is_end_stream(),
            Either::Backup { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Either::Primary { body } => body.size_hint(),
            Either::Backup { body } => body.size_hint(),
        }
    }
}
