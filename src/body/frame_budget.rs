//! Limits how many frames are read in one poll.

use std::task::Context;

/// Counts the frames of one poll.
///
/// A body that is always ready, such as one of empty frames in memory, would otherwise be read endlessly in one poll: no
/// timer fires meanwhile, and no other task of the thread runs.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    left: u32,
}

/// Reading this many frames takes about ten microseconds.
const FRAMES_PER_POLL: u32 = 256;

// === impl FrameBudget ===

impl FrameBudget {
    pub(crate) const fn new() -> Self {
        Self { left: FRAMES_PER_POLL }
    }

    /// Whether this poll may read another frame. If not, the task has been woken to continue: return `Pending`.
    pub(crate) fn may_read(&mut self, cx: &Context<'_>) -> bool {
        if self.left == 0 {
            cx.waker().wake_by_ref();
            return false;
        }
        self.left -= 1;
        true
    }
}
