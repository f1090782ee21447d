//! The body of a request on its way through the stack.
//!
//! The HTTP client inside would report a failed body as a failed call, and the breaker would count it against the
//! upstream. So the body reports the failure to the proxy, which drops the call. A body that is dropped before its end
//! returns to the proxy, which knows how to treat its connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tower_buttress::error::BoxError;

use super::begun::Begun;

/// A body that reports to the proxy while the proxy listens.
#[derive(Debug)]
pub(crate) struct ObservedUpload {
    /// `None` after it was dropped.
    body: Option<Begun>,
    failure: Option<oneshot::Sender<BoxError>>,
    rest: Option<oneshot::Sender<Incoming>>,
    has_failed: bool,
}

/// The reports of an upload.
#[derive(Debug)]
pub(crate) struct UploadReports {
    pub(crate) failure: oneshot::Receiver<BoxError>,
    /// The unread rest, once the body is dropped.
    pub(crate) rest: oneshot::Receiver<Incoming>,
}

// === impl ObservedUpload ===

impl ObservedUpload {
    pub(crate) fn watched(body: Begun) -> (Self, UploadReports) {
        let (failure, fails) = oneshot::channel();
        let (rest, rests) = oneshot::channel();
        let upload = Self { body: Some(body), failure: Some(failure), rest: Some(rest), has_failed: false };
        (upload, UploadReports { failure: fails, rest: rests })
    }
}

impl Body for ObservedUpload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.has_failed {
            // The proxy drops this call. Returning an end here would end the request as if it were whole.
            return Poll::Pending;
        }
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None) = polled {
            self.rest = None;
        }
        let Poll::Ready(Some(Err(error))) = polled else { return polled.map_err(Into::into) };
        let error = BoxError::from(error);
        self.rest = None;
        let Some(failure) = self.failure.take() else { return Poll::Ready(Some(Err(error))) };
        match failure.send(error) {
            Ok(()) => {
                self.has_failed = true;
                Poll::Pending
            }
            // The upstream answered while the request was still being sent.
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.has_failed && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for ObservedUpload {
    fn drop(&mut self) {
        let (Some(rest), Some(body)) = (self.rest.take(), self.body.take()) else { return };
        let body = body.into_rest();
        if !body.is_end_stream() {
            let _ = rest.send(body);
        }
    }
}
