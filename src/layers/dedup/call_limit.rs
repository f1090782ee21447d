use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use crate::error::{BoxError, DeadlineExceeded, Superseded};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::deadline::{Deadline, SharedDeadline};
use crate::rt::timeout::Timeout;
use crate::store::ResponseLog;

/// Ends a call in flight for a caller that came back to it. Such a caller does not extend the call's deadline, whatever
/// its own is, nor keep the call alive after a newer message has replaced the message that it belongs to.
pub(super) struct CallLimit {
    log: ResponseLog,
    deadline: Option<Latest>,
    /// With a waker that wakes every reader of the log. The caller registers as a reader before it polls this limit.
    cancellation: Option<(Cancellation, Waker)>,
    timeout: Timeout,
}

/// The deadline of the call.
#[derive(Clone, Copy)]
struct Latest {
    at: Instant,
    /// The remaining time when the caller came back.
    left: Duration,
}

/// Why a call has ended for a caller.
pub(super) enum LimitReached {
    Late(DeadlineExceeded),
    Superseded,
}

// === impl CallLimit ===

impl CallLimit {
    /// `None`: the call has ended, or has no limit.
    pub(super) fn of(log: &ResponseLog, cancellation: Option<Cancellation>) -> Option<Self> {
        if log.has_ended() {
            return None;
        }
        let at = log.deadline().as_ref().and_then(SharedDeadline::latest).map(Deadline::instant);
        let deadline = at.map(|at| Latest { at, left: at.saturating_duration_since(clock::now()) });
        let cancellation = cancellation.map(|cancellation| (cancellation, log.readers_waker()));
        let is_bound = deadline.is_some() || cancellation.is_some();
        is_bound.then(|| Self { log: log.clone(), deadline, cancellation, timeout: Timeout::default() })
    }

    /// Ready when the call ends for this caller, but continues for others.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LimitReached> {
        if self.log.has_ended() {
            return Poll::Pending;
        }
        if let Some((cancellation, readers)) = &self.cancellation {
            if cancellation.poll_returned(&mut Context::from_waker(readers)).is_ready() {
                return Poll::Ready(LimitReached::Superseded);
            }
        }
        let Some(Latest { at, left }) = self.deadline else { return Poll::Pending };
        ready!(self.timeout.poll_until(at, cx));
        Poll::Ready(LimitReached::Late(DeadlineExceeded::new(left)))
    }

    /// The same for a caller that has data to read, and does not wait.
    pub(super) fn has_passed(&mut self, cx: &mut Context<'_>) -> Option<LimitReached> {
        if self.log.has_ended() {
            return None;
        }
        if self.cancellation.as_ref().is_some_and(|(cancellation, _)| cancellation.is_cancelled()) {
            return Some(LimitReached::Superseded);
        }
        let Latest { at, left } = self.deadline?;
        self.timeout.has_passed(at, cx).then(|| LimitReached::Late(DeadlineExceeded::new(left)))
    }
}

// === impl LimitReached ===

impl From<LimitReached> for BoxError {
    fn from(ended: LimitReached) -> Self {
        match ended {
            LimitReached::Late(deadline) => deadline.into(),
            LimitReached::Superseded => Superseded::new().into(),
        }
    }
}
