//! Whether a call was cancelled on purpose.
//!
//! # Why must a layer inside know?
//!
//! A caller that leaves may come back: a browser retries, and a layer that shares calls keeps the upstream call alive for
//! it. A call that a newer message has replaced is useless, and its upstream call should end at once. Both look the same
//! from inside: the future or the body is dropped. So the layer that cancels a call marks it here first.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::sync::{AtomicBool, Mutex, Ordering, lock};

/// The mark of one call: in its request's extensions, and shared by its clones.
#[derive(Clone, Debug)]
pub(crate) struct Cancellation(Arc<State>);

/// In the extensions of an answer: its call continues after the answer, and can still be cancelled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoesOn;

#[derive(Debug)]
struct State {
    is_cancelled: AtomicBool,
    /// The last one that polled: the call, or the task that keeps its upstream call alive.
    waker: Mutex<Option<Waker>>,
    /// The callers that came back to the answer.
    returned: Mutex<Option<Waker>>,
}

// === impl Cancellation ===

impl Cancellation {
    pub(crate) fn new() -> Self {
        let (waker, returned) = (Mutex::new(None), Mutex::new(None));
        Self(Arc::new(State { is_cancelled: AtomicBool::new(false), waker, returned }))
    }

    /// Cancels the call.
    pub(crate) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes the last one that polled, so that it checks its other conditions.
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

    /// Ready when the call is cancelled. Only the last one that polled is woken.
    #[inline]
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_with(&self.0.waker, cx)
    }

    /// The same for callers that came back to the answer, with a waker slot of their own: their waker wakes all of them.
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
        // It may have been cancelled before the waker was stored.
        if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
