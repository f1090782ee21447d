use std::task::{Context, Poll, ready};

use super::shared::{ConversationCall, Waits};
use crate::policy::supersede::StartTime;
use crate::rt::timer::LazyTimer;

/// The wait of a call for its turn. A call that is superseded meanwhile is told so by its cancellation.
#[derive(Default)]
pub(super) struct Waiting {
    timer: LazyTimer,
    /// Since it had to wait.
    counted: Option<Waits>,
}

// === impl Waiting ===

impl Waiting {
    /// Ready when the call may go on. The call's cancellation was polled before, and wakes this one when its turn comes.
    pub(super) fn poll(&mut self, call: &ConversationCall, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let turn = call.start_time();
            if turn == StartTime::Now {
                return Poll::Ready(());
            }
            self.counted.get_or_insert_with(|| call.waits());
            match turn {
                StartTime::At(settled) => ready!(self.timer.poll_until(settled, cx)),
                _ => return Poll::Pending,
            }
        }
    }
}
