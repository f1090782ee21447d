use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::error::DeadlineExceeded;
use crate::rt::clock;
use crate::rt::deadline::{Deadline, SharedDeadline};
use crate::rt::timeout::Timeout;
use crate::store::ResponseLog;

/// The time that a call has, for a caller that came back to it: it does not keep the call going beyond that, whatever its own
/// deadline is.
pub(super) struct CallLimit {
    log: ResponseLog,
    at: Instant,
    /// How long that was when the caller came.
    left: Duration,
    timeout: Timeout,
}

// === impl CallLimit ===

impl CallLimit {
    /// `None`: the call has ended, or all the time that it needs.
    pub(super) fn of(log: &ResponseLog) -> Option<Self> {
        let at = log.deadline().as_ref().and_then(SharedDeadline::latest).map(Deadline::instant)?;
        let left = at.saturating_duration_since(clock::now());
        let this = Self { log: log.clone(), at, left, timeout: Timeout::default() };
        (!log.has_ended()).then_some(this)
    }

    /// Ready when the time has passed, and the call goes on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DeadlineExceeded> {
        if self.log.has_ended() {
            return Poll::Pending;
        }
        ready!(self.timeout.poll_until(self.at, cx));
        Poll::Ready(DeadlineExceeded::new(self.left))
    }

    /// The same for a caller that has something to read, and does not wait.
    pub(super) fn has_passed(&mut self, cx: &mut Context<'_>) -> Option<DeadlineExceeded> {
        let passed = !self.log.has_ended() && self.timeout.has_passed(self.at, cx);
        passed.then(|| DeadlineExceeded::new(self.left))
    }
}
