use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::body::boxed::Polled;
use crate::error::BoxError;
use crate::rt::timeout::Timeout;

/// The end of a body, behind the last bytes that were inserted into it.
///
/// A server that is handed an error drops the part of the stream that it has not written yet, the error event included;
/// over HTTP/2 the head, too. Nothing tells the body when the server has written, and over HTTP/2 another task does, on
/// another thread. So an error follows the event after a short delay.
pub(super) struct DelayedEnd {
    last: Option<Result<Frame<Bytes>, BoxError>>,
    timeout: Timeout,
}

/// A task that is woken runs within far less, unless all threads are busy; and such a delay of an error does no harm.
const FLUSH_DELAY: Duration = Duration::from_millis(50);

// === impl DelayedEnd ===

impl fmt::Debug for DelayedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayedEnd").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl DelayedEnd {
    pub(super) fn new(last: Result<Frame<Bytes>, BoxError>) -> Self {
        Self { last: Some(last), timeout: Timeout::default() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        if matches!(self.last, Some(Err(_))) {
            ready!(self.timeout.poll_after(FLUSH_DELAY, cx));
        }
        Poll::Ready(self.last.take())
    }

    pub(super) fn is_over(&self) -> bool {
        self.last.is_none()
    }
}
