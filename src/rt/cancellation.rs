//! Whether a call was ended on purpose.
//!
//! # Why does a layer inside have to know?
//!
//! A caller that goes away may come back: a browser tries again, and a layer that shares calls keeps the upstream going for
//! it. A call that a newer message has replaced has no use any more, and its upstream is to be dropped at once. Both look the
//! same from inside: the future or the body is dropped. So the layer that ends a call says so here first.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::sync::{AtomicBool, Mutex, Ordering, lock};

/// Of one call: in its request's extensions, and shared by its clones.
#[derive(Clone, Debug)]
pub(crate) struct Cancellation(Arc<State>);

/// In the extensions of an answer: its call goes on when that is over, and can still be ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoesOn;

#[derive(Debug)]
struct State {
    is_cancelled: AtomicBool,
    /// Of the one that polled last: the call, or what keeps its upstream going when the call is gone.
    waker: Mutex<Option<Waker>>,
    /// Of the callers that came back to the answer.
    returned: Mutex<Option<Waker>>,
}

// === impl Cancellation ===

impl Cancellation {
    pub(crate) fn new() -> Self {
        let (waker, returned) = (Mutex::new(None), Mutex::new(None));
        Self(Arc::new(State { is_cancelled: AtomicBool::new(false), waker, returned }))
    }

    /// Ends the call.
    pub(crate) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes the one that polled last, so that it looks at what else it waits for.
    pub(crate) fn wake(&self) {
        for waker in [&self.0.waker, &self.0.returned] {
            let waker = lock(waker).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// Ready when the call is to end. Only the one that polled last is woken.
    #[inline]
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_with(&self.0.waker, cx)
    }

    /// The same for callers that came back to the answer, and take the waker of no other: theirs is one that wakes all of them.
    pub(crate) fn poll_returned(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_with(&self.0.returned, cx)
    }

    #[inline]
    fn poll_with(&self, waker: &Mutex<Option<Waker>>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        let replaced = {
            let mut waker = lock(waker);
            match &mut *waker {
                Some(known) if known.will_wake(cx.waker()) => None,
                other => other.replace(cx.waker().clone()),
            }
        };
        drop(replaced);
        // It may have been cancelled before the waker was there to be woken.
        if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
