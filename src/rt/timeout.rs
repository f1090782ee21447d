//! A wait with a limit that tolerates a suspended process.
//!
//! # Why not just a timer?
//!
//! When a suspended process continues, all its timers have passed, and fire before the sockets are read: a stream would
//! end though its data has arrived. So if the end of a wait is noticed later than a running task ever notices it, the
//! wait is extended once, long enough to read a socket (see [`grace`]). Data that arrives by then is forwarded, since a
//! ready result beats a timer.

use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::clock;
use super::timer::LazyTimer;
use crate::policy::grace::grace;

/// Tracks whether a wait has lasted too long. Costs nothing until a task has to wait.
#[derive(Debug, Default)]
pub(crate) struct Timeout {
    timer: LazyTimer,
    grace: Option<Box<Grace>>,
}

/// A [`Timeout`] for streams, of which there may be many. It caches the timer's deadline: the timer's own memory is then
/// in no cache, and an owner that has just read the clock need not read it.
#[derive(Debug, Default)]
pub(crate) struct StreamTimeout {
    timeout: Timeout,
    runs: Option<Running>,
}

/// A timer that has not fired before `until`.
#[derive(Debug)]
struct Running {
    until: Instant,
    /// The waker of the waiting task.
    waker: Waker,
}

/// The end of a wait was noticed late.
#[derive(Debug)]
struct Grace {
    /// The original end.
    missed: Instant,
    until: Instant,
}

// === impl Timeout ===

impl Timeout {
    /// Waits until `at`, or once somewhat longer if that is noticed late. A different `at` starts another wait.
    ///
    /// # Panics
    ///
    /// As every tokio timer: outside a runtime with time enabled, when it is armed.
    #[inline]
    pub(crate) fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.grace.is_none() {
            ready!(self.timer.poll_until(at, cx));
        }
        self.poll_grace(at, cx)
    }

    /// Waits for `limit` from the first poll. A limit beyond the clock's range never ends.
    pub(crate) fn poll_after(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let missed = self.grace.as_ref().map(|grace| grace.missed);
        let at = missed.or_else(|| self.timer.armed_until()).or_else(|| clock::now().checked_add(limit));
        at.map_or(Poll::Pending, |at| self.poll_until(at, cx))
    }

    /// Whether `at` has passed, for an owner with data to forward. Reads the clock; arms a timer only if `at` is noticed
    /// late.
    pub(crate) fn has_passed(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        clock::now() >= at && self.poll_until(at, cx).is_ready()
    }

    /// Whether the wait is over; otherwise its grace has begun.
    #[cold]
    #[inline(never)]
    fn poll_grace(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(grace) = self.grace.take().filter(|grace| grace.missed == at) {
            let until = grace.until;
            self.grace = Some(grace);
            return self.timer.poll_until(until, cx);
        }
        ready!(self.timer.poll_until(at, cx));
        let now = clock::now();
        let Some(until) = grace(now.saturating_duration_since(at)).and_then(|grace| now.checked_add(grace)) else {
            return Poll::Ready(());
        };
        self.grace = Some(Box::new(Grace { missed: at, until }));
        self.timer.poll_until(until, cx)
    }
}

// === impl StreamTimeout ===

impl StreamTimeout {
    /// See [`Timeout::poll_until`].
    pub(crate) fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.timeout.poll_until(at, cx);
        self.note(cx);
        polled
    }

    /// The same for an owner that has just read the clock.
    #[inline]
    pub(crate) fn poll_until_from(&mut self, now: Instant, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let runs = self.runs.as_ref().is_some_and(|running| running.until <= at && running.will_wake(now, cx));
        if runs { Poll::Pending } else { self.poll_until(at, cx) }
    }

    /// See [`Timeout::has_passed`].
    #[inline]
    pub(crate) fn has_passed(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        clock::now() >= at && self.poll_until(at, cx).is_ready()
    }

    /// See [`LazyTimer::will_wake`].
    #[inline]
    pub(crate) fn will_wake(&self, cx: &Context<'_>) -> bool {
        self.timeout.timer.will_wake(cx)
    }

    /// The same for an owner that has just read the clock.
    #[inline]
    pub(crate) fn will_wake_from(&self, now: Instant, cx: &Context<'_>) -> bool {
        self.runs.as_ref().is_some_and(|running| running.will_wake(now, cx))
    }

    /// See [`LazyTimer::is_running`].
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.timeout.timer.is_running()
    }

    /// Whether its deadline is known.
    #[inline]
    pub(crate) fn is_known(&self) -> bool {
        self.runs.is_some()
    }

    fn note(&mut self, cx: &Context<'_>) {
        let timer = &self.timeout.timer;
        let until = timer.armed_until().filter(|_| timer.will_wake(cx));
        match (&mut self.runs, until) {
            (Some(running), Some(until)) => {
                running.until = until;
                running.waker.clone_from(cx.waker());
            }
            (runs, until) => *runs = until.map(|until| Running { until, waker: cx.waker().clone() }),
        }
    }
}

// === impl Running ===

impl Running {
    #[inline]
    fn will_wake(&self, now: Instant, cx: &Context<'_>) -> bool {
        now < self.until && self.waker.will_wake(cx.waker())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// Polls once, lets the clock jump, and waits for the end: returns the time since `at`.
    async fn late(timeout: &mut Timeout, at: Instant, jump: Duration) -> Duration {
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_until(at, cx))).await.is_pending());
        tokio::time::advance(jump).await;
        poll_fn(|cx| timeout.poll_until(at, cx)).await;
        clock::now() - at
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_found_in_time_is_the_end() {
        let at = clock::now() + S;
        assert_eq!(late(&mut Timeout::default(), at, S).await, Duration::ZERO);
        let at = clock::now() + S;
        assert_eq!(late(&mut Timeout::default(), at, S + 100 * MS).await, 100 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_found_late_is_put_off_once() {
        let mut timeout = Timeout::default();
        for (jump, over) in [(2 * S, 1_050), (6 * S, 5_050), (21 * S, 20_500)] {
            let at = clock::now() + S;
            assert_eq!(late(&mut timeout, at, jump).await, over * MS, "each wait has a grace of its own");
            assert!(poll_fn(|cx| Poll::Ready(timeout.poll_until(at, cx))).await.is_ready(), "and only one");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_suspension_is_not_waited_for() {
        let mut timeout = Timeout::default();
        let at = clock::now() + S;
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_until(at, cx))).await.is_pending());
        for (jump, over) in [(3 * S, false), (3 * S, true)] {
            tokio::time::advance(jump).await;
            assert_eq!(poll_fn(|cx| Poll::Ready(timeout.poll_until(at, cx))).await.is_ready(), over);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_wait_may_end_sooner_than_the_grace() {
        let mut timeout = Timeout::default();
        let at = clock::now() + S;
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_until(at, cx))).await.is_pending());
        tokio::time::advance(20 * S).await;
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_until(at, cx))).await.is_pending());
        let next = clock::now() + 10 * MS;
        poll_fn(|cx| timeout.poll_until(next, cx)).await;
        assert_eq!(clock::now(), next);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_counts_from_the_first_wait() {
        let mut timeout = Timeout::default();
        let start = clock::now();
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_after(3 * S, cx))).await.is_pending());
        tokio::time::advance(S).await;
        poll_fn(|cx| timeout.poll_after(3 * S, cx)).await;
        assert_eq!(clock::now() - start, 3 * S);

        let mut timeout = Timeout::default();
        let start = clock::now();
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_after(S, cx))).await.is_pending());
        tokio::time::advance(2 * S).await;
        poll_fn(|cx| timeout.poll_after(S, cx)).await;
        assert_eq!(clock::now() - start, 2_050 * MS);

        assert!(poll_fn(|cx| Poll::Ready(Timeout::default().poll_after(Duration::MAX, cx))).await.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_knows_the_time_waits_as_any_other() {
        let (start, mut timeout) = (clock::now(), StreamTimeout::default());
        let poll =
            |timeout: &mut StreamTimeout, at, cx: &mut Context<'_>| timeout.poll_until_from(clock::now(), at, cx);
        assert!(poll_fn(|cx| Poll::Ready(poll(&mut timeout, start + 3 * S, cx))).await.is_pending());
        tokio::time::advance(S).await;
        // It is polled again, waits longer, and is woken at the new end.
        poll_fn(|cx| {
            assert!(timeout.will_wake_from(clock::now(), cx) || clock::now() >= start + 3 * S);
            poll(&mut timeout, start + 5 * S, cx)
        })
        .await;
        assert_eq!(clock::now() - start, 5 * S);
        // A late end is extended for those too.
        let at = clock::now() + S;
        assert!(poll_fn(|cx| Poll::Ready(poll(&mut timeout, at, cx))).await.is_pending());
        tokio::time::advance(2 * S).await;
        poll_fn(|cx| poll(&mut timeout, at, cx)).await;
        assert_eq!(clock::now() - at, 1_050 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_another_task_takes_over_wakes_that() {
        let (start, mut timeout) = (clock::now(), StreamTimeout::default());
        assert!(poll_fn(|cx| Poll::Ready(timeout.poll_until(start + S, cx))).await.is_pending());
        assert!(poll_fn(|cx| Poll::Ready(timeout.will_wake_from(start, cx))).await);
        let other = tokio::spawn(async move {
            assert!(!poll_fn(|cx| Poll::Ready(timeout.will_wake_from(start, cx))).await);
            poll_fn(|cx| timeout.poll_until_from(clock::now(), start + S, cx)).await;
        });
        other.await.unwrap();
        assert_eq!(clock::now() - start, S);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_wait_nothing_is_armed_before_the_end() {
        for jumps in [[(S / 2, false), (S / 2, true)], [(2 * S, false), (50 * MS, true)]] {
            let mut timeout = Timeout::default();
            let at = clock::now() + S;
            for (jump, passed) in jumps {
                tokio::time::advance(jump).await;
                assert_eq!(poll_fn(|cx| Poll::Ready(timeout.has_passed(at, cx))).await, passed, "{jump:?}");
                assert!(clock::now() > at || !timeout.timer.is_running());
            }
        }
    }
}
