use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::either::EitherBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The response body of [`Fallback`](crate::fallback::Fallback): the primary's, or the backup's.
    #[derive(Debug)]
    pub struct FallbackBody<A, B> {
        #[pin]
        body: EitherBody<ResponseBody<A>, ResponseBody<B>>,
    }
}

// === impl FallbackBody ===

impl<A, B> FallbackBody<A, B> {
    pub(super) fn primary(body: A) -> Self {
        Self { body: EitherBody::Inner { body: ResponseBody::inner(body) } }
    }

    pub(super) fn backup(body: B) -> Self {
        Self { body: EitherBody::Other { body: ResponseBody::inner(body) } }
    }

    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| Self { body: EitherBody::Inner { body } })
    }
}

impl<A, B> Body for FallbackBody<A, B>
where
    A: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
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
