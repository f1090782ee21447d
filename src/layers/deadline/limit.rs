use std::task::{Context, Poll};
use std::time::Duration;

use crate::event::Emitter;
use crate::rt::clock;
use crate::rt::deadline::{CallDeadline, Deadline, EnteredDeadline};
use crate::rt::timeout::StreamTimeout;

/// The deadline of one call and its timer: first owned by the future, then by the body.
#[derive(Debug)]
// What each frame reads and writes stands first.
#[repr(C)]
pub struct DeadlineLimit {
    /// The number of ready frames that have read the clock.
    clock_reads: u8,
    /// The number of polls that neither read the clock nor ask the timer.
    free_polls: u8,
    deadline: CallDeadline,
    timeout: StreamTimeout,
    /// The remaining time when the call began.
    pub(super) total: Duration,
    pub(super) emitter: Emitter,
}

/// The ready frames that read the clock before one arms the timer. Arming takes the lock of the runtime's timers, which
/// all threads share, and most answers have ended by then.
const UNTIMED_CLOCK_READS: u8 = 8;

/// After a wait, its frame is forwarded, since a ready result beats a timer. The poll after that mostly finds nothing, and
/// waits: to ask the timer twice would fetch its memory, which with many streams is in no cache.
const FREE_POLLS: u8 = 2;

// === impl DeadlineLimit ===

impl DeadlineLimit {
    pub(super) fn new(deadline: CallDeadline, total: Duration, emitter: Emitter) -> Self {
        Self { deadline, total, timeout: StreamTimeout::default(), clock_reads: 0, free_polls: 0, emitter }
    }

    /// Makes this the current deadline of the task until the guard is dropped.
    #[inline]
    pub(super) fn enter(&self) -> EnteredDeadline {
        Deadline::enter_any(self.deadline.get())
    }

    /// Whether a ready frame may skip the clock: the caller has just waited, or a timer runs.
    #[inline]
    pub(super) fn take_skips_clock(&mut self) -> bool {
        if self.free_polls > 0 {
            self.free_polls -= 1;
            return true;
        }
        self.timeout.is_running()
    }

    /// Ready after the deadline, for an owner that waits.
    #[inline]
    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.deadline.get().map(Deadline::instant) else { return Poll::Pending };
        if self.timeout.is_known() {
            self.timeout.poll_until_from(clock::now(), at, cx)
        } else {
            self.timeout.poll_until(at, cx)
        }
    }

    /// The same for an owner that waits for a frame.
    #[inline]
    pub(super) fn poll_frame_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.free_polls = FREE_POLLS;
        self.poll_passed(cx)
    }

    /// Whether the deadline has passed, for an owner with a frame to forward.
    #[inline]
    pub(super) fn has_passed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.clock_reads >= UNTIMED_CLOCK_READS {
            return self.poll_passed(cx).is_ready();
        }
        self.clock_reads += 1;
        self.deadline.get().is_some_and(|deadline| self.timeout.has_passed(deadline.instant(), cx))
    }
}
