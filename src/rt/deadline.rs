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
use super::per_thread::ThreadArc;
use super::sync::{Mutex, lock};
use crate::proto::deadline::DeadlineHeader;

/// The instant at which a call, its body included, must be over.
///
/// [`DeadlineLayer`](crate::DeadlineLayer) puts it into the extensions of every request it passes on, and a caller
/// may put one there itself: the earliest wins.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use tower_buttress::Deadline;
///
/// let deadline = Deadline::after(Duration::from_secs(30)).unwrap();
/// tokio::time::sleep(Duration::from_secs(20)).await;
/// assert_eq!(deadline.remaining(), Duration::from_secs(10));
/// tokio::time::sleep(Duration::from_secs(20)).await;
/// assert_eq!(deadline.remaining(), Duration::ZERO);
/// # }
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
/// [`Deadline`], which is that of the caller who came first, and over the [current](Deadline::current) one, which is that of
/// the caller whose task polls the call.
#[derive(Clone, Debug)]
pub(crate) struct SharedDeadline {
    callers: Arc<Mutex<CallersTime>>,
    /// However long the callers have: the limit of a layer that is part of the shared call.
    cap: Option<Deadline>,
}

#[derive(Debug)]
struct CallersTime {
    /// `None`: a caller without a deadline listens.
    latest: Option<Deadline>,
    /// What the upstream was told last that it has, in a deadline header: `None` where it was told nothing, or of a limit that
    /// holds however long the callers have.
    propagated: Option<Duration>,
}

/// The deadline that a layer keeps.
#[derive(Clone, Debug)]
pub(crate) enum CallDeadline {
    Fixed(Deadline),
    /// Of a shared call: it moves away when a caller joins that has more time.
    Shared(Box<SharedDeadline>),
}

/// The headers in which the deadline of a request stands. In its extensions, so that a later attempt does not promise the
/// upstream the time that has passed since.
#[derive(Clone, Debug)]
pub(crate) struct PropagatedHeaders {
    pub(crate) headers: ThreadArc<[DeadlineHeader]>,
    /// Is kept back of what is written.
    pub(crate) reserve: Duration,
    /// With less than this left, reserve included, the request is not worth sending.
    pub(crate) min_remaining: Duration,
}

/// Puts back what was current, also when the poll inside panics.
pub(crate) struct EnteredDeadline {
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
    /// caller joins that has more time.
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

    /// Returns what is left now, by tokio's clock; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.remaining_at(clock::now())
    }

    /// Returns what is left at `now`; zero once it has passed.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use tower_buttress::Deadline;
    ///
    /// let now = Instant::now();
    /// let deadline = Deadline::at(now + Duration::from_secs(30));
    /// assert_eq!(deadline.remaining_at(now + Duration::from_secs(10)), Duration::from_secs(20));
    /// ```
    pub fn remaining_at(self, now: impl Into<Instant>) -> Duration {
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
        let min = extensions.get().map_or(Duration::ZERO, |written: &PropagatedHeaders| written.min_remaining);
        Self::of(extensions).map(|deadline| deadline.remaining_at(now).saturating_sub(min))
    }

    /// Writes what is left at `now` where it stands in this request.
    pub(crate) fn refresh_headers(head: &mut Parts, now: Instant) {
        if let (Some(deadline), Some(written)) =
            (Self::of(&head.extensions), head.extensions.get::<PropagatedHeaders>())
        {
            let left = deadline.remaining_at(now).saturating_sub(written.reserve);
            for header in written.headers.iter() {
                header.write(left, &mut head.headers);
            }
            if let Some(shared) = head.extensions.get::<SharedDeadline>() {
                shared.note_propagated(left);
            }
        }
    }

    /// Makes this the current deadline until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> EnteredDeadline {
        Self::enter_any(Some(self))
    }

    /// The same, where there may be none.
    #[inline]
    pub(crate) fn enter_any(deadline: Option<Self>) -> EnteredDeadline {
        EnteredDeadline { before: CURRENT.replace(deadline) }
    }
}

impl Drop for EnteredDeadline {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

// === impl SharedDeadline ===

impl SharedDeadline {
    pub(crate) fn new(first: Deadline) -> Self {
        Self { callers: Arc::new(Mutex::new(CallersTime { latest: Some(first), propagated: None })), cap: None }
    }

    /// A caller joins that has time until then; `None`: without end.
    pub(crate) fn extend(&self, deadline: Option<Deadline>) {
        let mut callers = lock(&self.callers);
        callers.latest = callers.latest.zip(deadline).map(|(one, other)| one.max(other));
    }

    pub(crate) fn latest(&self) -> Option<Deadline> {
        let latest = lock(&self.callers).latest;
        latest.into_iter().chain(self.cap).min()
    }

    /// The upstream is told, in a deadline header, that it has `left`.
    pub(crate) fn note_propagated(&self, left: Duration) {
        let mut callers = lock(&self.callers);
        let is_the_callers = callers.latest.is_some_and(|latest| self.cap.is_none_or(|cap| latest <= cap));
        callers.propagated = is_the_callers.then_some(left);
    }

    /// How long the upstream was told that it has, where a caller with more time would have told it more.
    pub(crate) fn propagated(&self) -> Option<Duration> {
        lock(&self.callers).propagated
    }

    fn capped(&self, cap: Option<Deadline>) -> Self {
        Self { callers: self.callers.clone(), cap: self.cap.into_iter().chain(cap).min() }
    }
}

// === impl CallDeadline ===

impl CallDeadline {
    /// The earliest of `ours` and of those that hold for the request with these extensions already.
    pub(crate) fn earliest(extensions: &Extensions, ours: Option<Deadline>) -> Option<Self> {
        match extensions.get::<SharedDeadline>() {
            Some(shared) => Some(Self::Shared(Box::new(shared.capped(ours)))),
            None => {
                let given = extensions.get().copied();
                [ours, given, Deadline::current()].into_iter().flatten().min().map(Self::Fixed)
            }
        }
    }

    /// The upstream is told, in a deadline header, that it has `left`.
    pub(crate) fn note_propagated(&self, left: Duration) {
        if let Self::Shared(shared) = self {
            shared.note_propagated(left);
        }
    }

    /// What it is now; `None` where a caller of the shared call has no deadline.
    #[inline]
    pub(crate) fn get(&self) -> Option<Deadline> {
        match self {
            Self::Fixed(deadline) => Some(*deadline),
            Self::Shared(shared) => shared.latest(),
        }
    }

    /// Writes it where the services inside look for it. `until` is what it is now.
    pub(crate) fn write(&self, until: Deadline, extensions: &mut Extensions) {
        extensions.insert(until);
        if let Self::Shared(shared) = self {
            extensions.insert(SharedDeadline::clone(shared));
        }
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
