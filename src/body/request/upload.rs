//! Whether a request waits for its sender or for the upstream.
//!
//! # Why watch the request body?
//!
//! A first-byte timeout from the start of the call would blame the upstream for a caller's slow upload; a timeout from
//! the end of the upload would wait forever for an upstream that stopped reading. So the wait counts from the upstream's
//! last read of the request body, and not at all while the body has no data ready.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::body::boxed::Polled;
use crate::rt::clock;
use crate::rt::sync::{AtomicU32, AtomicU64, Mutex, Ordering::Relaxed, lock};

/// The waiting side: since when the caller waits for the upstream.
#[derive(Clone, Debug)]
pub(crate) struct UploadWatch {
    /// When the request was made.
    start: Instant,
    // `None`: the body is sent at once, and the wait began with the call.
    shared: Option<Arc<Shared>>,
}

/// The watched side, in the [`CallBody`](super::CallBody): it reports each poll.
///
/// Dropping it reports that the upload is over: from then on the wait is for the upstream.
#[derive(Debug)]
pub(crate) struct UploadReporter {
    shared: Arc<Shared>,
    /// Whether a layer waits for the sender: there is only one waker.
    has_waiter: bool,
    /// Whether a layer waits for the end.
    has_end_waiter: bool,
}

/// The state that both sides share.
#[derive(Debug)]
struct Shared {
    start: Instant,
    /// Nanoseconds from the start to the upstream's last read (584 years fit), or `SENDER`. One word, so reading it needs
    /// no lock.
    taken: AtomicU64,
    /// Whether the body was read to its end or dropped (`SENT`), or broke off (`FAILED`).
    over: AtomicU32,
    /// The number of bytes read.
    bytes: AtomicU64,
    /// The task to wake when the sender has no data ready.
    waker: Mutex<Option<Waker>>,
    /// What to wake when the body is over, one for each layer that asked.
    over_wakers: Mutex<Vec<Waker>>,
}

/// The sender has no data ready: the upstream is not at fault.
const SENDER: u64 = u64::MAX;
const SENT: u32 = 1;
const FAILED: u32 = 2;

// === impl UploadWatch ===

impl UploadWatch {
    /// Starts the wait for an upstream whose request has no body, or is sent at once.
    pub(super) fn sent() -> Self {
        Self { start: clock::now(), shared: None }
    }

    /// Since when the upstream is waited for; `None` while the wait is for the sender.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        let since = self.shared.as_ref().map_or(Some(self.start), |shared| shared.waiting_since());
        since.map(|since| since.max(self.start))
    }

    /// Since when the upstream has the complete request; `None` before that.
    pub(crate) fn sent_since(&self) -> Option<Instant> {
        let is_sent = self.shared.as_ref().is_none_or(|shared| shared.is_over());
        if is_sent { self.waiting_since() } else { None }
    }

    /// Whether the sender broke off.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.over.load(Relaxed) == FAILED)
    }

    /// The number of bytes that the upstream has taken; `None` if not counted.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.shared.as_ref().map(|shared| shared.bytes.load(Relaxed))
    }

    /// Ready while the upstream waits for the sender.
    pub(crate) fn poll_sender(&self, cx: &mut Context<'_>) -> Poll<()> {
        // The usual case: all was sent, and the body was dropped.
        let Some(shared) = self.shared.as_ref().filter(|shared| !shared.is_over()) else {
            return Poll::Pending;
        };
        // Before checking, so that a later report wakes this task.
        let before = shared.set_waker(Some(cx.waker().clone()));
        drop(before);
        if shared.waiting_since().is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

// === impl UploadReporter ===

impl UploadReporter {
    /// For an unread body.
    pub(super) fn new(now: Instant) -> Self {
        let (taken, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (over, waker, over_wakers) = (AtomicU32::new(0), Mutex::new(None), Mutex::new(Vec::new()));
        let shared = Shared { start: now, taken, over, bytes, waker, over_wakers };
        Self { shared: Arc::new(shared), has_waiter: false, has_end_waiter: false }
    }

    /// Starts the wait for the upstream at `now`; `None` if the watch should wait for the sender, and another one already
    /// does.
    pub(super) fn watch(&mut self, waits_for_sender: bool, now: Instant) -> Option<UploadWatch> {
        if waits_for_sender && self.has_waiter {
            return None;
        }
        self.has_waiter |= waits_for_sender;
        Some(UploadWatch { start: now, shared: Some(self.shared.clone()) })
    }

    /// Wakes this when the body is over.
    pub(super) fn wake_when_over(&mut self, waker: Waker) {
        self.has_end_waiter = true;
        lock(&self.shared.over_wakers).push(waker);
    }

    /// Reports a poll by the upstream; `over`: the body has ended.
    pub(super) fn report(&self, polled: &Polled, over: bool) {
        match polled {
            Poll::Pending => self.nothing_to_take(),
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = frame {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    self.shared.bytes.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Relaxed);
                }
                self.taken();
            }
        }
        match polled {
            Poll::Ready(Some(Err(_))) => self.end(FAILED),
            _ if over => self.end(SENT),
            _ => {}
        }
    }

    fn end(&self, how: u32) {
        self.shared.over.store(how, Relaxed);
        if self.has_end_waiter {
            let wakers = std::mem::take(&mut *lock(&self.shared.over_wakers));
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn taken(&self) {
        let nanos = clock::now().saturating_duration_since(self.shared.start).as_nanos();
        self.shared.taken.store(u64::try_from(nanos).unwrap_or(SENDER - 1).min(SENDER - 1), Relaxed);
    }

    fn nothing_to_take(&self) {
        self.shared.taken.store(SENDER, Relaxed);
        let waker = self.shared.set_waker(None);
        waker.inspect(Waker::wake_by_ref);
    }
}

impl Drop for UploadReporter {
    fn drop(&mut self) {
        if self.shared.waiting_since().is_none() {
            self.taken();
        }
        if !self.shared.is_over() {
            self.end(SENT);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed) != 0
    }

    fn waiting_since(&self) -> Option<Instant> {
        match self.taken.load(Relaxed) {
            SENDER => None,
            nanos => Some(self.start + Duration::from_nanos(nanos)),
        }
    }

    fn set_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        std::mem::replace(&mut *lock(&self.waker), waker)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use bytes::Bytes;
    use http_body::Body;
    use http_body_util::channel::Channel;
    use http_body_util::{BodyExt, Empty};

    use super::*;
    use crate::body::request::CallBody;
    use crate::body::request::call_body::MAX_SENT_AT_ONCE;

    const S: Duration = Duration::from_secs(1);

    fn watched<B>(body: B) -> (UploadWatch, CallBody)
    where
        B: Body<Data = Bytes, Error: Into<crate::error::BoxError>> + Send + 'static,
    {
        let mut body = CallBody::new(body);
        (body.watch(), body)
    }

    fn is_pending(body: &mut CallBody) -> bool {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_body_the_wait_begins_with_the_call() {
        let start = clock::now();
        let (upload, _body) = watched(Empty::<Bytes>::new());
        tokio::time::advance(S).await;
        assert_eq!(upload.waiting_since(), Some(start));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_is_not_the_upstreams_fault() {
        let start = clock::now();
        let (mut sender, body) = Channel::<Bytes>::new(8);
        let (upload, mut body) = watched(body);
        // The upstream has not begun to read: the wait is for it.
        tokio::time::advance(S).await;
        assert_eq!(upload.waiting_since(), Some(start));
        // It reads, and no data is ready.
        assert!(is_pending(&mut body));
        assert_eq!(upload.waiting_since(), None);
        // It took a frame, and takes no more.
        sender.send_data("x".into()).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(upload.waiting_since(), Some(start + S));
        tokio::time::advance(S).await;
        assert_eq!(upload.waiting_since(), Some(start + S));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_dropped_is_not_waited_for() {
        let start = clock::now();
        let (_sender, body) = Channel::<Bytes>::new(8);
        let (upload, mut body) = watched(body);
        assert!(is_pending(&mut body));
        tokio::time::advance(S).await;
        drop(body);
        assert_eq!(upload.waiting_since(), Some(start + S));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_sent_when_its_body_is() {
        let (mut sender, body) = Channel::<Bytes>::new(8);
        let mut body = CallBody::new(body);
        let start = clock::now();
        let upload = body.watch_sending().unwrap();
        tokio::time::advance(S).await;
        assert_eq!(upload.sent_since(), None, "the upstream has not begun to read");
        sender.send_data("x".into()).await.unwrap();
        body.frame().await.unwrap().unwrap();
        tokio::time::advance(S).await;
        assert_eq!(upload.sent_since(), None, "there may be more");
        drop(body);
        assert_eq!(upload.sent_since(), Some(start + S));

        // A body in memory is sent at once, unless it is large.
        let long = Bytes::from(vec![0; MAX_SENT_AT_ONCE + 1]);
        for (mut body, sent) in [(CallBody::empty(), true), (long.slice(1..).into(), true), (long.into(), false)] {
            assert_eq!(body.watch_sending().is_none(), sent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_does_not_wait_for_the_sender_shares_the_view_of_one_that_does() {
        let (_sender, body) = Channel::<Bytes>::new(8);
        let mut body = CallBody::new(body);
        let outer = body.watch_sending().unwrap();
        tokio::time::advance(S).await;
        let inner = body.watch();
        assert_eq!(inner.waiting_since(), Some(clock::now()), "it has not been waiting before");
        assert!(poll_fn(|cx| Poll::Ready(inner.poll_sender(cx))).await.is_pending());
        assert!(is_pending(&mut body));
        assert_eq!((outer.waiting_since(), inner.waiting_since()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_two_layers_has_its_own_view() {
        let (_sender, body) = Channel::<Bytes>::new(8);
        let (outer, mut body) = watched(body);
        let inner = body.watch();
        let woken = poll_fn(|cx| Poll::Ready((outer.poll_sender(cx), inner.poll_sender(cx)))).await;
        assert_eq!(woken, (Poll::Pending, Poll::Pending));
        assert!(is_pending(&mut body));
        assert_eq!((outer.waiting_since(), inner.waiting_since()), (None, None));
    }
}
