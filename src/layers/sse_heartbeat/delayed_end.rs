use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::body::boxed::Polled;
use crate::error::BoxError;
use crate::rt::timeout::Timeout;

/// What comes last, behind bytes that were told before it.
///
/// A server that is handed an error drops all of the stream that it has not written yet, the event that tells of the error
/// first of all; over HTTP/2 the head, too. Nothing says when it has written, and over HTTP/2 another task does, on another
/// thread. So there is a moment between the two.
pub(super) struct DelayedEnd {
    last: Option<Result<Frame<Bytes>, BoxError>>,
    timeout: Timeout,
}

/// A task that is woken runs within far less, unless all threads are busy; and nobody minds an error that comes so late.
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
