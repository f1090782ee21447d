use std::task::{Context, Poll};
use std::time::Duration;

use crate::event::Emitter;
use crate::rt::deadline::{CallDeadline, Deadline, Entered};
use crate::rt::timeout::Timeout;

/// The deadline of one call, and what it takes to keep it: first the future has it, then the body.
#[derive(Debug)]
pub(super) struct Limit {
    deadline: CallDeadline,
    /// What the call had when it began.
    pub(super) total: Duration,
    timeout: Timeout,
    /// How many ready frames have looked at the clock.
    looks: u8,
    pub(super) emitter: Emitter,
}

/// So many ready frames look at the clock before one arms the timer. To arm it takes the lock of the runtime's timers, which all
/// threads share, and most answers are over by then.
const LOOKS: u8 = 8;

// === impl Limit ===

impl Limit {
    pub(super) fn new(deadline: CallDeadline, total: Duration, emitter: Emitter) -> Self {
        Self { deadline, total, timeout: Timeout::default(), looks: 0, emitter }
    }

    /// Makes it the current deadline of the task until the guard is dropped.
    #[inline]
    pub(super) fn enter(&self) -> Entered {
        Deadline::enter_any(self.deadline.get())
    }

    /// Whether a timer runs, so that a frame that is ready need not look at the clock.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.timeout.is_running()
    }

    /// Ready once the deadline has passed, for an owner that waits.
    #[inline]
    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.deadline.get() {
            Some(deadline) => self.timeout.poll_until(deadline.instant(), cx),
            None => Poll::Pending,
        }
    }

    /// Whether the deadline has passed, for an owner that has a frame to hand on.
    #[inline]
    pub(super) fn has_passed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.looks >= LOOKS {
            return self.poll_passed(cx).is_ready();
        }
        self.looks += 1;
        self.deadline.get().is_some_and(|deadline| self.timeout.has_passed(deadline.instant(), cx))
    }
}
