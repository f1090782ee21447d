//! The instant at which a call must end, and how it travels inside a process.

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

/// The instant at which a call must end, its body included.
///
/// [`DeadlineLayer`](crate::DeadlineLayer) puts it into the extensions of every request it passes on. A caller may add
/// one too: the earliest applies.
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
    // Set around each poll and restored after it, which makes it task-local. A plain cell, because tokio's task-local
    // costs a borrow flag and an option more.
    static CURRENT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// The deadline of a call that several callers share: the latest of theirs. In a request's extensions it takes precedence
/// over [`Deadline`], the first caller's own, and over the [current](Deadline::current) one, that of the caller whose
/// task polls the call.
#[derive(Clone, Debug)]
pub(crate) struct SharedDeadline {
    callers: Arc<Mutex<CallersTime>>,
    /// An upper bound, independent of the callers: the limit of a layer inside the shared call.
    cap: Option<Deadline>,
}

#[derive(Debug)]
struct CallersTime {
    /// `None`: a caller without a deadline listens.
    latest: Option<Deadline>,
    /// The remaining time last sent to the upstream in a deadline header: `None` if none was sent, or only a limit that
    /// does not depend on the callers.
    propagated: Option<Duration>,
}

/// The deadline that a layer enforces.
#[derive(Clone, Debug)]
pub(crate) enum CallDeadline {
    Fixed(Deadline),
    /// The deadline of a shared call: it moves later when a caller with more time joins.
    Shared(Box<SharedDeadline>),
}

/// The headers with the deadline of a request. In its extensions, so that a later attempt updates them.
#[derive(Clone, Debug)]
pub(crate) struct PropagatedHeaders {
    pub(crate) headers: ThreadArc<[DeadlineHeader]>,
    /// Subtracted from the written time.
    pub(crate) reserve: Duration,
    /// With less than this left, reserve included, the request is not sent.
    pub(crate) min_remaining: Duration,
}

/// Restores the previous deadline, even if the poll inside panics.
pub(crate) struct EnteredDeadline {
    before: Option<Deadline>,
}

// === impl Deadline ===

impl Deadline {
    /// Returns the deadline at this instant ([`std::time::Instant`], or tokio's).
    pub fn at(instant: impl Into<Instant>) -> Self {
        Self(instant.into())
    }

    /// Returns the deadline this long from now; `None` if that is beyond the clock's range.
    #[must_use]
    pub fn after(budget: Duration) -> Option<Self> {
        clock::now().checked_add(budget).map(Self)
    }

    /// The instant.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Returns the deadline of the request with these extensions.
    ///
    /// Read it each time it is needed: under [`DedupLayer`](crate::DedupLayer) it moves later when a caller with more
    /// time joins.
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

    /// Returns the remaining time, by tokio's clock; zero after the deadline.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.remaining_at(clock::now())
    }

    /// Returns the remaining time at `now`; zero after the deadline.
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

    /// Returns the deadline of the call that this task works on, set by the [`DeadlineLayer`](crate::DeadlineLayer)
    /// around it.
    ///
    /// It is set while the handler's future or its response body is polled: inside nested calls, `join!`, `select!`, and
    /// body streams too. It is *not* set in spawned tasks (`tokio::spawn`, `spawn_blocking`, a body fed by a task of its
    /// own): pass it on with [`scope`](Self::scope).
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

    /// Makes this the [`current`](Self::current) deadline inside `future`. It cancels nothing by itself.
    pub fn scope<F: Future>(self, future: F) -> DeadlineScope<F> {
        DeadlineScope { inner: future, deadline: self }
    }

    /// Returns the time for another attempt at `now`, by the deadline of the request with these extensions.
    pub(crate) fn remaining_for_attempt(extensions: &Extensions, now: Instant) -> Option<Duration> {
        let min = extensions.get().map_or(Duration::ZERO, |written: &PropagatedHeaders| written.min_remaining);
        Self::of(extensions).map(|deadline| deadline.remaining_at(now).saturating_sub(min))
    }

    /// Rewrites the deadline headers of this request with the remaining time at `now`.
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

    /// The same for an optional deadline.
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
    /// `None`: the first caller has no deadline.
    pub(crate) fn new(first: Option<Deadline>) -> Self {
        Self { callers: Arc::new(Mutex::new(CallersTime { latest: first, propagated: None })), cap: None }
    }

    /// A caller with this deadline joins; `None`: without one.
    pub(crate) fn extend(&self, deadline: Option<Deadline>) {
        let mut callers = lock(&self.callers);
        callers.latest = callers.latest.zip(deadline).map(|(one, other)| one.max(other));
    }

    pub(crate) fn latest(&self) -> Option<Deadline> {
        let latest = lock(&self.callers).latest;
        latest.into_iter().chain(self.cap).min()
    }

    /// Notes the remaining time that the header of the first caller's request says.
    pub(crate) fn note_first_propagated(&self, left: Duration) {
        lock(&self.callers).propagated = Some(left);
    }

    /// Notes the remaining time sent to the upstream in a deadline header.
    pub(crate) fn note_propagated(&self, left: Duration) {
        let mut callers = lock(&self.callers);
        let is_the_callers = callers.latest.is_some_and(|latest| self.cap.is_none_or(|cap| latest <= cap));
        callers.propagated = is_the_callers.then_some(left);
    }

    /// The remaining time sent to the upstream, if it depends on the callers.
    pub(crate) fn propagated(&self) -> Option<Duration> {
        lock(&self.callers).propagated
    }

    fn capped(&self, cap: Option<Deadline>) -> Self {
        Self { callers: self.callers.clone(), cap: self.cap.into_iter().chain(cap).min() }
    }
}

// === impl CallDeadline ===

impl CallDeadline {
    /// Returns the earliest of `ours` and the deadlines of the request with these extensions.
    pub(crate) fn earliest(extensions: &Extensions, ours: Option<Deadline>) -> Option<Self> {
        match extensions.get::<SharedDeadline>() {
            Some(shared) => Some(Self::Shared(Box::new(shared.capped(ours)))),
            None => {
                let given = extensions.get().copied();
                [ours, given, Deadline::current()].into_iter().flatten().min().map(Self::Fixed)
            }
        }
    }

    /// Notes the remaining time sent to the upstream in a deadline header.
    pub(crate) fn note_propagated(&self, left: Duration) {
        if let Self::Shared(shared) = self {
            shared.note_propagated(left);
        }
    }

    /// The current deadline; `None` if a caller of the shared call has none.
    #[inline]
    pub(crate) fn get(&self) -> Option<Deadline> {
        match self {
            Self::Fixed(deadline) => Some(*deadline),
            Self::Shared(shared) => shared.latest(),
        }
    }

    /// Writes it where the services inside read it. `until`: the current deadline.
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
