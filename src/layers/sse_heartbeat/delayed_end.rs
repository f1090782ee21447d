use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;

use crate::body::boxed::Polled;
use crate::error::BoxError;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

/// What comes last, behind bytes that were told before it.
///
/// A server that is handed an error drops all of the stream that it has not written yet, the event that tells of the error
/// first of all; over HTTP/2 the head, too. Nothing says when it has written, and over HTTP/2 another task does, on another
/// thread. So there is a moment between the two.
#[derive(Debug)]
pub(super) struct DelayedEnd {
    last: Option<Result<Frame<Bytes>, BoxError>>,
    until: Option<Instant>,
    timer: LazyTimer,
}

/// A task that is woken runs within far less, unless all threads are busy; and nobody minds an error that comes so late.
const FLUSH_DELAY: Duration = Duration::from_millis(50);

// === impl DelayedEnd ===

impl DelayedEnd {
    pub(super) fn new(last: Result<Frame<Bytes>, BoxError>) -> Self {
        Self { last: Some(last), until: None, timer: LazyTimer::default() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        if matches!(self.last, Some(Err(_))) {
            let until = *self.until.get_or_insert_with(|| clock::now() + FLUSH_DELAY);
            ready!(self.timer.poll_until(until, cx));
        }
        Poll::Ready(self.last.take())
    }

    pub(super) fn is_over(&self) -> bool {
        self.last.is_none()
    }
}
