use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::shared_body::SharedBody;
use crate::body::boxed::Polled;
use crate::body::either::EitherBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The response body of [`Dedup`](crate::dedup::Dedup): of a request that passed or was refused, or of a shared call.
    #[derive(Debug)]
    pub struct DedupBody<B> {
        #[pin]
        body: EitherBody<ResponseBody<B>, SharedBody>,
    }
}

// === impl DedupBody ===

impl<B> DedupBody<B> {
    pub(super) fn own(body: B) -> Self {
        Self { body: EitherBody::Inner { body: ResponseBody::inner(body) } }
    }

    pub(super) fn empty() -> Self {
        Self { body: EitherBody::Inner { body: ResponseBody::Over } }
    }

    pub(super) fn shared(body: SharedBody) -> Self {
        Self { body: EitherBody::Other { body } }
    }

    #[cold]
    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| Self { body: EitherBody::Inner { body } })
    }
}

impl<B> Body for DedupBody<B>
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
