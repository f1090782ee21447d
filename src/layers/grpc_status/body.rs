use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::response::ResponseBody;
use crate::error::{self, BoxError, DeadlineExceeded, IdleBodyElapsed};
use crate::proto::grpc::{GRPC_MESSAGE, GRPC_STATUS};
use crate::rejection::RejectionKind;

pin_project! {
    /// The response body of [`GrpcStatus`](crate::grpc_status::GrpcStatus).
    #[derive(Debug)]
    pub struct GrpcStatusBody<B> {
        #[pin]
        body: ResponseBody<B>,
        enabled: bool,
    }
}

// === impl GrpcStatusBody ===

impl<B> GrpcStatusBody<B> {
    pub(super) fn new(body: B, enabled: bool) -> Self {
        Self { body: ResponseBody::inner(body), enabled }
    }
}

impl<B> Body for GrpcStatusBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.project();
        match this.body.poll_frame(cx) {
            Poll::Ready(Some(Err(err))) if *this.enabled => Poll::Ready(Some(last_frame(err))),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>
const UNAVAILABLE: u8 = 14;

/// Replaces the error of a time limit of this crate by trailers.
#[cold]
fn last_frame(err: BoxError) -> Result<Frame<Bytes>, BoxError> {
    let (code, message) = if error::find::<DeadlineExceeded>(&err).is_some() {
        (RejectionKind::DeadlineExceeded.grpc_status(), RejectionKind::DeadlineExceeded.message())
    } else if error::find::<IdleBodyElapsed>(&err).is_some() {
        (UNAVAILABLE, "The upstream sent nothing for too long.")
    } else {
        return Err(err);
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    Ok(Frame::trailers(trailers))
}
