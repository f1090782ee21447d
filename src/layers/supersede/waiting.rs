use std::task::{Context, Poll, ready};

use super::shared::{ConversationCall, Waits};
use crate::policy::supersede::StartTime;
use crate::rt::timer::LazyTimer;

/// The wait of a call for its turn. The cancellation of a superseded call ends it.
#[derive(Default)]
pub(super) struct Waiting {
    timer: LazyTimer,
    /// Counts it while it waits.
    counted: Option<Waits>,
}

// === impl Waiting ===

impl Waiting {
    /// Ready when the call may start. The call's cancellation was polled before, and its waker fires when the turn comes.
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
