//! A timer that costs nothing until a task has to wait.
//!
//! # Why not a `Sleep` in the body?
//!
//! Creating one reads the clock, moving one locks the timer wheel, polling one costs more than most bodies do, and
//! holding one inline makes the body `!Unpin`. So it is created at the first wait, kept in a box, not polled again while
//! the same task waits and it has not fired, and moved only when it has fired too early for its owner.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tokio::task::unconstrained;
use tokio::time::Sleep;

use super::clock;

#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    armed: Option<Pin<Box<Armed>>>,
}

pin_project! {
    #[derive(Debug)]
    struct Armed {
        #[pin]
        sleep: Sleep,
        // The waker of the task that the timer wakes: while that task polls, it need not be armed again.
        waker: Waker,
    }
}

/// The resolution of tokio's timers.
const TICK: Duration = Duration::from_millis(1);

// === impl LazyTimer ===

impl LazyTimer {
    /// Waits until `at`, which may move between calls.
    ///
    /// # Panics
    ///
    /// As every tokio timer: outside a runtime with time enabled, when it is armed.
    #[inline]
    pub(crate) fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.will_wake(cx) && self.fires_by(at) { Poll::Pending } else { self.arm(at, cx) }
    }

    /// Whether a running timer will wake this task: then there is nothing to do but wait.
    ///
    /// It does not check the instant: for owners whose instant only moves later.
    #[inline]
    pub(crate) fn will_wake(&self, cx: &Context<'_>) -> bool {
        self.armed.as_deref().is_some_and(|armed| !armed.sleep.is_elapsed() && armed.waker.will_wake(cx.waker()))
    }

    /// Whether it is armed, and its instant has not passed. Reads no clock.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.armed.as_deref().is_some_and(|armed| !armed.sleep.is_elapsed())
    }

    /// The instant for which it was armed, passed or not.
    pub(crate) fn armed_until(&self) -> Option<Instant> {
        self.armed.as_deref().map(|armed| armed.sleep.deadline().into_std())
    }

    fn fires_by(&self, at: Instant) -> bool {
        self.armed.as_deref().is_some_and(|armed| armed.sleep.deadline().into_std() <= at)
    }

    #[cold]
    #[inline(never)]
    fn arm(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        // Tokio rounds up to its tick, and panics near the end of the clock's range: such an instant is treated as never.
        if at.checked_add(TICK).is_none() {
            return Poll::Pending;
        }
        let at = tokio::time::Instant::from_std(at);
        let armed = self
            .armed
            .get_or_insert_with(|| Box::pin(Armed { sleep: tokio::time::sleep_until(at), waker: cx.waker().clone() }));
        loop {
            let mut armed = armed.as_mut().project();
            if armed.sleep.deadline() > at {
                armed.sleep.as_mut().reset(at);
            }
            // The waiting task may have used up tokio's budget by reading. A sleep then returns pending without
            // registering the waker, and would not be polled again.
            if Pin::new(&mut unconstrained(armed.sleep.as_mut())).poll(cx).is_pending() {
                armed.waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            if armed.sleep.deadline() >= at {
                clock::renew();
                return Poll::Ready(());
            }
            armed.sleep.reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn fires_at_its_instant_and_not_before() {
        let start = clock::now();
        let mut timer = LazyTimer::default();
        poll_fn(|cx| timer.poll_until(start + SECOND, cx)).await;
        assert_eq!(clock::now() - start, SECOND);
        assert!(!timer.is_running());
    }

    #[tokio::test(start_paused = true)]
    async fn its_owner_finds_that_the_instant_has_passed() {
        let _once = clock::read_once();
        let start = clock::now();
        let mut timer = LazyTimer::default();
        poll_fn(|cx| timer.poll_until(start + SECOND, cx)).await;
        assert_eq!(clock::now() - start, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instant_that_moved_away_is_waited_for_in_full() {
        let start = clock::now();
        let mut timer = LazyTimer::default();
        let mut at = start + SECOND;
        poll_fn(|cx| {
            let polled = timer.poll_until(at, cx);
            at = start + 3 * SECOND;
            polled
        })
        .await;
        assert_eq!(clock::now() - start, 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instant_that_came_nearer_is_kept() {
        let start = clock::now();
        let mut timer = LazyTimer::default();
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(start + 60 * SECOND, cx))).await.is_pending());
        poll_fn(|cx| timer.poll_until(start + SECOND, cx)).await;
        assert_eq!(clock::now() - start, SECOND);
    }

    /// A peer may ask for such a long wait, and the machine's uptime is unknown.
    #[tokio::test(start_paused = true)]
    async fn the_last_instant_of_all_is_waited_for() {
        let mut last = clock::now();
        for step in (0..64)
            .rev()
            .map(|bit| Duration::from_secs(1 << bit))
            .chain((0..30).rev().map(|bit| Duration::from_nanos(1 << bit)))
        {
            last = last.checked_add(step).unwrap_or(last);
        }
        assert_eq!(last.checked_add(Duration::from_nanos(1)), None);
        let mut timer = LazyTimer::default();
        for at in [last, clock::now() + SECOND, last] {
            assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(at, cx))).await.is_pending());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_whose_turn_is_over_is_woken_all_the_same() {
        let start = clock::now();
        let mut timer = LazyTimer::default();
        let mut busy = true;
        poll_fn(|cx| {
            while busy && std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
            busy = false;
            timer.poll_until(start + SECOND, cx)
        })
        .await;
        assert_eq!(clock::now() - start, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_takes_it_back_is_woken() {
        let at = clock::now() + SECOND;
        let mut timer = LazyTimer::default();
        poll_fn(|here| {
            let elsewhere = &mut Context::from_waker(Waker::noop());
            assert!(timer.poll_until(at, here).is_pending());
            assert!(timer.poll_until(at, elsewhere).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|here| timer.poll_until(at, here)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_that_takes_over_is_woken() {
        let start = clock::now();
        let mut timer = LazyTimer::default();
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(start + SECOND, cx))).await.is_pending());
        let other = tokio::spawn(async move { poll_fn(|cx| timer.poll_until(start + SECOND, cx)).await });
        other.await.unwrap();
        assert_eq!(clock::now() - start, SECOND);
    }
}
