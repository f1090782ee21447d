//! The instant at which a call must be over, and how it travels inside a process.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Extensions;
use http::request::Parts;
use pin_project_lite::pin_project;

use super::clock;
use super::sync::{Mutex, lock};
use crate::proto::deadline::DeadlineHeader;

/// The instant at which a call, its body included, must be over.
///
/// [`DeadlineLayer`](crate::DeadlineLayer) puts it into the extensions of every request it passes on, and a caller
/// may put one there itself: the earliest wins.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tower_buttress::Deadline;
///
/// let now = Instant::now();
/// let deadline = Deadline::at(now + Duration::from_secs(30));
/// assert_eq!(deadline.remaining(now), Duration::from_secs(30));
/// assert_eq!(deadline.remaining(now + Duration::from_secs(31)), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

pin_project! {
    /// A future with a deadline around it, made by [`Deadline::scope`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineScope<F> {
        #[pin]
        inner: F,
        deadline: Deadline,
    }
}

thread_local! {
    // Set around each poll and put back after it, which makes it local to the task. A plain cell, because tokio's
    // task-local costs a borrow flag and an option more.
    static CURRENT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// The deadline of a call that several callers listen to: the latest of theirs. In a request's extensions it wins over
/// [`Deadline`], which is that of the caller who came first.
#[derive(Clone, Debug)]
pub(crate) struct SharedDeadline(Arc<Mutex<Option<Deadline>>>);

/// Where the deadline of a request stands in its headers. In its extensions, so that whoever sends it again, later, does not
/// promise the time that has passed since.
#[derive(Clone, Debug)]
pub(crate) struct PropagatedHeaders {
    pub(crate) headers: Arc<[DeadlineHeader]>,
    /// Is kept back of what is written.
    pub(crate) reserve: Duration,
    /// With less than this left, reserve included, the request is not worth sending.
    pub(crate) least: Duration,
}

/// Puts back what was current, also when the poll inside panics.
pub(crate) struct Entered {
    before: Option<Deadline>,
}

// === impl Deadline ===

impl Deadline {
    /// At this instant ([`std::time::Instant`], or tokio's).
    pub fn at(instant: impl Into<Instant>) -> Self {
        Self(instant.into())
    }

    /// This long from now; `None` where that lies beyond what the clock can count.
    #[must_use]
    pub fn after(budget: Duration) -> Option<Self> {
        clock::now().checked_add(budget).map(Self)
    }

    /// The instant itself.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// The deadline of the request that has these extensions.
    ///
    /// Ask for it when it is needed, and not only once: under [`DedupLayer`](crate::DedupLayer) it moves away when a
    /// caller joins who has more time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower_buttress::Deadline;
    ///
    /// let deadline = Deadline::after(Duration::from_secs(30)).unwrap();
    /// let request = Request::builder().extension(deadline).body(()).unwrap();
    /// assert_eq!(Deadline::of(request.extensions()), Some(deadline));
    /// ```
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        match extensions.get::<SharedDeadline>() {
            Some(shared) => shared.latest(),
            None => extensions.get().copied(),
        }
    }

    /// What is left at `now`; zero once it has passed.
    pub fn remaining(self, now: impl Into<Instant>) -> Duration {
        self.0.saturating_duration_since(now.into())
    }

    /// The deadline of the call that this task is working on, set by the [`DeadlineLayer`](crate::DeadlineLayer)
    /// around it.
    ///
    /// It is there while the handler's future or its response body is polled: inside nested calls, `join!`,
    /// `select!`, and body streams too. It is *not* there in what was spawned (`tokio::spawn`, `spawn_blocking`, a
    /// body fed by a task of its own): carry it over with [`scope`](Self::scope).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::time::Duration;
    /// use tower_buttress::Deadline;
    ///
    /// let deadline = Deadline::after(Duration::from_secs(5)).unwrap();
    /// deadline.scope(async move {
    ///     assert_eq!(Deadline::current(), Some(deadline));
    ///
    ///     // A spawned task is another task:
    ///     assert_eq!(tokio::spawn(async { Deadline::current() }).await.unwrap(), None);
    ///     let carried = deadline.scope(async { Deadline::current() });
    ///     assert_eq!(tokio::spawn(carried).await.unwrap(), Some(deadline));
    /// }).await;
    /// assert_eq!(Deadline::current(), None);
    /// # }
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Makes this the [`current`](Self::current) deadline inside `future`. It ends nothing by itself.
    pub fn scope<F: Future>(self, future: F) -> DeadlineScope<F> {
        DeadlineScope { inner: future, deadline: self }
    }

    /// What is left at `now` of the deadline of the request that has these extensions, if it is to be sent again.
    pub(crate) fn remaining_for_attempt(extensions: &Extensions, now: Instant) -> Option<Duration> {
        let least = extensions.get().map_or(Duration::ZERO, |written: &PropagatedHeaders| written.least);
        Self::of(extensions).map(|deadline| deadline.remaining(now).saturating_sub(least))
    }

    /// Writes what is left at `now` where it stands in this request.
    pub(crate) fn refresh_headers(head: &mut Parts, now: Instant) {
        if let (Some(deadline), Some(written)) =
            (Self::of(&head.extensions), head.extensions.get::<PropagatedHeaders>())
        {
            let left = deadline.remaining(now).saturating_sub(written.reserve);
            for header in written.headers.iter() {
                header.write(left, &mut head.headers);
            }
        }
    }

    /// Makes this the current deadline until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> Entered {
        Self::enter_any(Some(self))
    }

    /// The same, where there may be none.
    #[inline]
    pub(crate) fn enter_any(deadline: Option<Self>) -> Entered {
        Entered { before: CURRENT.replace(deadline) }
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

// === impl SharedDeadline ===

impl SharedDeadline {
    pub(crate) fn new(first: Deadline) -> Self {
        Self(Arc::new(Mutex::new(Some(first))))
    }

    /// Somebody joins who has time until then; `None`: without end.
    pub(crate) fn extend(&self, deadline: Option<Deadline>) {
        let mut latest = lock(&self.0);
        *latest = latest.zip(deadline).map(|(one, other)| one.max(other));
    }

    pub(crate) fn latest(&self) -> Option<Deadline> {
        *lock(&self.0)
    }
}

// === impl DeadlineScope ===

impl<F: Future> Future for DeadlineScope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.deadline.enter();
        this.inner.poll(cx)
    }
}
