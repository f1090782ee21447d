//! One timer for all calls that wait in one place.
//!
//! # Why not a timer for each?
//!
//! Tokio's timer and its waker have 128 bytes, more than all else that a waiting call needs besides its request. No waiting
//! call holds the timer for the others: one that is kept and not polled would let no other call give up. A task does,
//! while calls wait.
//!
//! # Why one for each runtime?
//!
//! Services with the same state may be used in several runtimes, and a runtime may be dropped, or kept and not run. So each
//! runtime in which a call waits has a task of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio::runtime::{Handle, Id};

use super::sync::{AtomicBool, Mutex, Ordering, lock};
use super::timer::LazyTimer;

/// Calls that wait in one place.
pub(crate) trait AlarmedCalls: Send + Sync + 'static {
    fn alarms(&self) -> &Alarms;

    /// Wakes the calls whose waits have ended. Returns when this must be done again; `None`: no call waits for a time.
    fn wake_ended(&self) -> Option<Instant>;
}

/// The alarms of such calls, one for each runtime.
#[derive(Debug)]
pub(crate) struct Alarms {
    all: Mutex<Vec<Alarm>>,
    /// Whether there is one. A hint for readers without the lock.
    are_set: AtomicBool,
}

/// An alarm, as long as its task lives.
#[derive(Debug)]
struct Alarm {
    runtime: Id,
    /// `None`: its task is looking for the time.
    at: Option<Instant>,
    task: Option<Waker>,
}

struct AlarmTask<C: AlarmedCalls> {
    calls: Weak<C>,
    runtime: Id,
    timer: LazyTimer,
}

// === impl Alarms ===

impl Alarms {
    pub(crate) fn new() -> Self {
        Self { all: Mutex::new(Vec::new()), are_set: AtomicBool::new(false) }
    }

    /// Looks at the calls at this time, or before. The waiting call's waker is known, and its runtime is the current one.
    ///
    /// # Panics
    ///
    /// As every tokio timer: outside a runtime with time enabled, if there is no alarm yet.
    pub(crate) fn set<C: AlarmedCalls>(calls: &Arc<C>, at: Instant) {
        let handle = Handle::current();
        let runtime = handle.id();
        if !calls.alarms().add(runtime, at) {
            return;
        }
        let mut task = AlarmTask { calls: Arc::downgrade(calls), runtime, timer: LazyTimer::default() };
        // Without timers it is the waiting call that panics, and not a task that no caller sees.
        let _ = task.timer.poll_until(at, &mut Context::from_waker(Waker::noop()));
        handle.spawn(task);
    }

    /// No call waits any more: the tasks end.
    #[inline]
    pub(crate) fn end(&self) {
        if self.are_set.load(Ordering::Relaxed) {
            let tasks: Vec<_> = lock(&self.all).iter_mut().filter_map(|alarm| alarm.task.take()).collect();
            tasks.into_iter().for_each(Waker::wake);
        }
    }

    /// Returns whether a task is needed.
    fn add(&self, runtime: Id, at: Instant) -> bool {
        let mut all = lock(&self.all);
        let Some(alarm) = all.iter_mut().find(|alarm| alarm.runtime == runtime) else {
            all.push(Alarm { runtime, at: Some(at), task: None });
            self.are_set.store(true, Ordering::Relaxed);
            return true;
        };
        if alarm.at.is_none_or(|known| at < known) {
            alarm.at = Some(at);
            let task = alarm.task.take();
            drop(all);
            task.into_iter().for_each(Waker::wake);
        }
        false
    }

    /// The task of this runtime looks at the calls. What is set meanwhile counts, too.
    fn begin_look(&self, runtime: Id, task: &Waker) {
        if let Some(alarm) = lock(&self.all).iter_mut().find(|alarm| alarm.runtime == runtime) {
            (alarm.at, alarm.task) = (None, Some(task.clone()));
        }
    }

    /// Returns when it must look again. `None`: the alarm has ended.
    fn end_look(&self, runtime: Id, next: Option<Instant>) -> Option<Instant> {
        let mut all = lock(&self.all);
        let alarm = all.iter_mut().find(|alarm| alarm.runtime == runtime)?;
        alarm.at = alarm.at.into_iter().chain(next).min();
        if alarm.at.is_none() {
            self.remove(&mut all, runtime);
            return None;
        }
        alarm.at
    }

    fn remove(&self, all: &mut Vec<Alarm>, runtime: Id) {
        all.retain(|alarm| alarm.runtime != runtime);
        self.are_set.store(!all.is_empty(), Ordering::Relaxed);
    }
}

// === impl AlarmTask ===

impl<C: AlarmedCalls> Future for AlarmTask<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(calls) = self.calls.upgrade() else { return Poll::Ready(()) };
            calls.alarms().begin_look(self.runtime, cx.waker());
            let next = calls.wake_ended();
            let Some(next) = calls.alarms().end_look(self.runtime, next) else {
                // Another task may have the next alarm of this runtime.
                self.calls = Weak::new();
                return Poll::Ready(());
            };
            ready!(self.timer.poll_until(next, cx));
        }
    }
}

impl<C: AlarmedCalls> Drop for AlarmTask<C> {
    fn drop(&mut self) {
        // Its runtime ends before the waits do. Calls that wait in other runtimes have alarms there.
        if let Some(calls) = self.calls.upgrade() {
            let alarms = calls.alarms();
            alarms.remove(&mut lock(&alarms.all), self.runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::rt::clock;

    const S: Duration = Duration::from_secs(1);

    /// Each with its time, until it is woken.
    struct Waiting {
        alarms: Alarms,
        calls: Mutex<Vec<(Instant, Waker)>>,
    }

    impl Waiting {
        fn new() -> Arc<Self> {
            Arc::new(Self { alarms: Alarms::new(), calls: Mutex::new(Vec::new()) })
        }

        /// A call that was polled once.
        fn waits(self: &Arc<Self>, until: Instant, cx: &Context<'_>) -> Poll<()> {
            lock(&self.calls).push((until, cx.waker().clone()));
            Alarms::set(self, until);
            Poll::Ready(())
        }

        /// Waits for a while, by an alarm alone.
        async fn pass(self: &Arc<Self>, time: Duration) {
            let (until, mut waits) = (clock::now() + time, false);
            poll_fn(|cx| {
                if !std::mem::replace(&mut waits, true) {
                    let _ = self.waits(until, cx);
                }
                if clock::now() < until { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }

        fn leave(&self) {
            lock(&self.calls).clear();
            self.alarms.end();
        }
    }

    impl AlarmedCalls for Waiting {
        fn alarms(&self) -> &Alarms {
            &self.alarms
        }

        fn wake_ended(&self) -> Option<Instant> {
            let now = clock::now();
            let mut calls = lock(&self.calls);
            let (ended, left) = calls.drain(..).partition(|(until, _)| *until <= now);
            *calls = left;
            let next = calls.iter().map(|(until, _)| *until).min();
            drop(calls);
            Vec::into_iter(ended).for_each(|(_, waker)| waker.wake());
            next
        }
    }

    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_is_woken_at_its_time_and_then_the_task_ends() {
        let (calls, start) = (Waiting::new(), clock::now());
        let times = [3, 1, 2, 1].map(|seconds| {
            let calls = calls.clone();
            async move {
                calls.pass(seconds * S).await;
                (clock::now() - start, tasks())
            }
        });
        let times = futures_util::future::join_all(times).await;
        let (times, tasks_then): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        assert_eq!(times, [3 * S, S, 2 * S, S]);
        assert!(tasks_then.iter().all(|tasks| *tasks <= 1), "one task for all");
        tokio::task::yield_now().await;
        assert_eq!(tasks(), 0);
        calls.pass(S).await;
        assert_eq!(clock::now() - start, 4 * S, "the next call has another");
    }

    #[tokio::test(start_paused = true)]
    async fn no_task_is_left_where_no_call_waits_or_their_state_is_gone() {
        for is_dropped in [false, true] {
            let calls = Waiting::new();
            poll_fn(|cx| calls.waits(clock::now() + 60 * S, cx)).await;
            tokio::task::yield_now().await;
            assert_eq!((tasks(), Arc::strong_count(&calls)), (1, 1));
            calls.leave();
            if is_dropped {
                drop(calls);
            }
            tokio::task::yield_now().await;
            assert_eq!(tasks(), 0);
        }
    }

    #[test]
    fn a_runtime_that_ends_or_rests_keeps_no_call_of_another_waiting() {
        for is_dropped in [true, false] {
            let (calls, other) = (Waiting::new(), runtime());
            // Its call came first, and has the earlier time.
            other.block_on(poll_fn(|cx| calls.waits(clock::now() + Duration::from_millis(20), cx)));
            other.block_on(tokio::task::yield_now());
            let kept = (!is_dropped).then_some(other);
            let (done, is_done) = mpsc::channel();
            let waiting = calls.clone();
            thread::spawn(move || {
                runtime().block_on(waiting.pass(Duration::from_millis(40)));
                done.send(()).unwrap();
            });
            is_done.recv_timeout(60 * S).unwrap();
            assert_eq!(lock(&calls.alarms.all).len(), usize::from(!is_dropped), "a runtime's alarm ends with it");
            drop(kept);
            assert!(lock(&calls.alarms.all).is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "timers are disabled")]
    fn without_timers_the_waiting_call_panics() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(Waiting::new().pass(S));
    }
}
