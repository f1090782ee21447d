use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};

use crate::body::boxed::Polled;
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::response::ResponseBody;
use crate::error::{self, BoxError, DeadlineExceeded, IdleBodyElapsed};
use crate::proto::grpc::{GRPC_MESSAGE, GRPC_STATUS};
use crate::rejection::RejectionKind;

/// The response body of [`GrpcStatus`](crate::grpc_status::GrpcStatus).
pub type GrpcStatusBody<B> = MonitoredBody<B, ErrorTrailers>;

/// Ends a body that reaches a time limit with trailers.
#[derive(Clone, Copy, Debug)]
pub struct ErrorTrailers;

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for ErrorTrailers {
    #[inline]
    fn poll_frame(&mut self, body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        match body.poll_frame(cx) {
            Poll::Ready(Some(Err(err))) => Poll::Ready(Some(last_frame(err))),
            polled => polled,
        }
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
