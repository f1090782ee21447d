use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::body::boxed::Polled;
use crate::error::BoxError;
use crate::rt::timeout::Timeout;

/// The end of a body, some time after the last inserted bytes.
///
/// A server that gets an error drops the unwritten part of the stream, the error event included; over HTTP/2 the head,
/// too. The body cannot know when the server has written it, and over HTTP/2 another task does so, on another thread. So
/// an error follows the event after a short delay.
pub(super) struct DelayedEnd {
    last: Option<Result<Frame<Bytes>, BoxError>>,
    timeout: Timeout,
}

/// A woken task runs much sooner, unless all threads are busy; and such a delay of an error is harmless.
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
