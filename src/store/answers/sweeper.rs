use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::held::HeldAnswers;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

/// The task that drops expired answers, and frees their memory, even if no caller comes. One for all answers, while there
/// are any.
pub(super) struct Sweeper {
    held: Weak<HeldAnswers>,
    at: Instant,
    timer: LazyTimer,
    is_done: bool,
}

// === impl Sweeper ===

impl Sweeper {
    /// The first answer expires at `at`.
    pub(super) fn new(held: &Arc<HeldAnswers>, at: Instant) -> Self {
        Self { held: Arc::downgrade(held), at, timer: LazyTimer::default(), is_done: false }
    }
}

impl Future for Sweeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        ready!(this.timer.poll_until(this.at, cx));
        let next = this.held.upgrade().and_then(|held| held.sweep(clock::now()));
        let Some(next) = next else {
            this.is_done = true;
            return Poll::Ready(());
        };
        this.at = next;
        // If more have expired, other tasks run first.
        if this.timer.poll_until(next, cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Sweeper {
    // Also when the runtime ends: the next answer starts another sweeper.
    fn drop(&mut self) {
        if let Some(held) = self.held.upgrade().filter(|_| !self.is_done) {
            held.table().lost_sweeper();
        }
    }
}
