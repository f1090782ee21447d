use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::held::HeldAnswers;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

/// The task that drops the answers whose window has passed, and gives back their memory, though no caller comes any more. One
/// for all of them, as long as there are any.
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
        // Where more have expired, others have their turn first.
        if this.timer.poll_until(next, cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Sweeper {
    // Also when the runtime ends: the next answer to end begins another.
    fn drop(&mut self) {
        if let Some(held) = self.held.upgrade().filter(|_| !self.is_done) {
            held.table().lost_sweeper();
        }
    }
}
