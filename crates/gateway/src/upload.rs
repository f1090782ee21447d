//! A request's body whose client may leave.
//!
//! To the client inside, a body that fails is a call that failed: it would be told as the upstream's fault, and its
//! breaker would count it. So the proxy is told in its place, and drops the call.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tower_buttress::error::BoxError;

/// A body that tells of its failure elsewhere, while somebody listens there.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    body: B,
    broken: Option<oneshot::Sender<BoxError>>,
    told: bool,
}

// === impl Upload ===

impl<B> Upload<B> {
    pub(crate) fn watched(body: B) -> (Self, oneshot::Receiver<BoxError>) {
        let (broken, breaks) = oneshot::channel();
        (Self { body, broken: Some(broken), told: false }, breaks)
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.told {
            // Whoever polls is dropped soon; an end here would look like one of the request.
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Poll::Ready(Some(Err(error))) = polled else { return polled };
        let Some(broken) = self.broken.take() else { return Poll::Ready(Some(Err(error))) };
        match broken.send(error) {
            Ok(()) => {
                self.told = true;
                Poll::Pending
            }
            // The upstream has answered already, and is still being asked.
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.told && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
