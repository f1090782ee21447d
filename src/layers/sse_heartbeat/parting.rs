use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use crate::body::boxed::Polled;
use crate::error::BoxError;

/// What comes last, behind bytes that were told before it.
///
/// A server that is handed an error drops the connection with all that it has not written yet, the event that tells of
/// the error first of all. It writes while it waits: so there is a moment between the two.
#[derive(Debug)]
pub(super) struct Parting {
    last: Option<Result<Frame<Bytes>, BoxError>>,
    waited: bool,
}

// === impl Parting ===

impl Parting {
    pub(super) fn new(last: Result<Frame<Bytes>, BoxError>) -> Self {
        let waited = last.is_ok();
        Self { last: Some(last), waited }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        if !std::mem::replace(&mut self.waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.last.take())
    }

    pub(super) fn is_over(&self) -> bool {
        self.last.is_none()
    }
}
