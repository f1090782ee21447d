//! Reports why a caller has to wait, for the reader of its stream.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use http::Extensions;

/// Why a caller has to wait longer. See [`SseHeartbeatLayer::notices`](crate::SseHeartbeatLayer::notices).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The call waits for its turn in a [`QueueLayer`](crate::QueueLayer).
    #[non_exhaustive]
    Queue {
        /// The expected wait, if it can be estimated.
        expected: Option<Duration>,
    },
    /// The call waits in a [`PaceLayer`](crate::PaceLayer) until the limit has room for it.
    #[non_exhaustive]
    Pace {
        /// The expected wait, if it can be estimated.
        expected: Option<Duration>,
    },
    /// An attempt failed, and another follows.
    #[non_exhaustive]
    Retry {
        /// The number of the next attempt.
        attempt: u32,
        /// The wait before it.
        wait: Duration,
    },
    /// The upstream cannot serve the call, and the layer asks a backup.
    #[non_exhaustive]
    Fallback {
        /// Its name.
        to: Arc<str>,
    },
    /// The stream broke, and the layer asks the upstream for the rest.
    #[non_exhaustive]
    Resume {},
}

/// Collects the reports of the layers below for the reader of one call, in the request's extensions. A caller that joins
/// a shared call has its own request, and so its own cell.
///
/// A report matters only while the caller waits: with 8 unread reports, a new one drops the oldest.
#[derive(Clone, Default)]
pub(crate) struct Notices(Arc<Mutex<PendingNotices>>);

#[derive(Default)]
struct PendingNotices {
    notices: VecDeque<Notice>,
    reader: Option<Waker>,
}

const MAX_UNREAD: usize = 8;

// === impl Notice ===

impl Notice {
    /// A stable name: `"queue"`, `"pace"`, `"retry"`, `"fallback"` or `"resume"`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queue { .. } => "queue",
            Self::Pace { .. } => "pace",
            Self::Retry { .. } => "retry",
            Self::Fallback { .. } => "fallback",
            Self::Resume {} => "resume",
        }
    }
}

// === impl Notices ===

impl Notices {
    /// Reports to the call with these extensions, if its caller wants notices.
    #[inline]
    pub(crate) fn report(extensions: &Extensions, notice: impl FnOnce() -> Notice) {
        if let Some(notices) = extensions.get::<Self>() {
            notices.push(notice());
        }
    }

    /// Returns the cell of the call with these extensions, for a later report.
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned()
    }

    pub(crate) fn push(&self, notice: Notice) {
        let mut unread = self.lock();
        if unread.notices.len() == MAX_UNREAD {
            unread.notices.pop_front();
        }
        unread.notices.push_back(notice);
        let reader = unread.reader.take();
        drop(unread);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Returns the oldest unread report. Without one, the next report wakes the task of `cx`.
    pub(crate) fn next(&self, cx: &Context<'_>) -> Option<Notice> {
        let mut unread = self.lock();
        let next = unread.notices.pop_front();
        if next.is_none() {
            unread.reader = Some(cx.waker().clone());
        }
        next
    }

    /// Drops unread reports: their wait is over.
    pub(crate) fn clear(&self) {
        self.lock().notices.clear();
    }

    fn lock(&self) -> MutexGuard<'_, PendingNotices> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn attempt(attempt: u32) -> Notice {
        Notice::Retry { attempt, wait: Duration::ZERO }
    }

    #[test]
    fn a_report_wakes_its_reader_and_is_read_once() {
        let (woken, notices) = (Arc::new(Woken::default()), Notices::default());
        let waker = woken.clone().into();
        let cx = Context::from_waker(&waker);
        let mut extensions = Extensions::new();
        extensions.insert(notices.clone());
        assert_eq!(notices.next(&cx), None);
        Notices::report(&extensions, || attempt(2));
        assert_eq!(woken.0.load(SeqCst), 1);
        assert_eq!(notices.next(&cx), Some(attempt(2)));
        assert_eq!(notices.next(&cx), None);
        Notices::report(&Extensions::new(), || unreachable!("there is no listener"));
    }

    #[test]
    fn only_the_last_ones_are_held() {
        let notices = Notices::default();
        let cx = Context::from_waker(Waker::noop());
        (0..20).for_each(|n| notices.push(attempt(n)));
        let read: Vec<Notice> = std::iter::from_fn(|| notices.next(&cx)).collect();
        assert_eq!(read, (12..20).map(attempt).collect::<Vec<_>>());
        notices.push(attempt(1));
        notices.clear();
        assert_eq!(notices.next(&cx), None);
    }
}
