//! Whether a request is waiting for its sender or for the upstream.
//!
//! # Why watch the request body?
//!
//! A first-byte timeout that starts with the call punishes the upstream for a caller's slow upload; one that starts
//! when the upload is over waits for ever on an upstream that stopped reading. So the wait that counts is the time since
//! the upstream last took something from the request body, and while the body itself has nothing to give, none at all.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::rt::clock;

/// The waiting side's view of an [`UploadBody`] body: since when the upstream has kept us waiting.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    start: Instant,
    // `None`: there is no body, and the wait began with the call.
    progress: Option<Arc<Progress>>,
}

/// What the two sides share.
#[derive(Debug, Default)]
struct Progress {
    /// Nanoseconds from the start to when the upstream last took something (584 years fit), or `SENDER`. One word, so
    /// that reading it needs no lock.
    taken: AtomicU64,
    /// Who is to hear that the sender has nothing to give.
    listener: Mutex<Option<Waker>>,
}

/// The sender has nothing to give: the upstream is not to blame.
const SENDER: u64 = u64::MAX;

pin_project! {
    /// The request body under [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer): it notes when it is read.
    ///
    /// Frames, trailers, errors and length are those of the body inside.
    #[derive(Debug)]
    pub struct UploadBody<B> {
        #[pin]
        body: B,
        upload: Option<Upload>,
    }

    impl<B> PinnedDrop for UploadBody<B> {
        // A body that is let go of half-way is waited for no longer: from now on it is the upstream's turn.
        fn drop(this: Pin<&mut Self>) {
            if let Some(upload) = this.project().upload {
                if upload.waiting_since().is_none() {
                    upload.taken();
                }
            }
        }
    }
}

// === impl Upload ===

impl Upload {
    /// Watches `body`, of which nothing has been taken.
    pub(crate) fn watch<B: Body>(body: B) -> (Self, UploadBody<B>) {
        let progress = (!body.is_end_stream()).then(Arc::default);
        let upload = Self { start: clock::now(), progress };
        let watching = upload.progress.is_some().then(|| upload.clone());
        (upload, UploadBody { body, upload: watching })
    }

    /// Since when we have been waiting for the upstream; `None` while it waits for the sender.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        match self.progress.as_ref().map_or(0, |progress| progress.taken.load(Relaxed)) {
            SENDER => None,
            nanos => Some(self.start + Duration::from_nanos(nanos)),
        }
    }

    /// Ready while the upstream waits for the sender.
    pub(crate) fn poll_sender(&self, cx: &mut Context<'_>) -> Poll<()> {
        // The usual case: all was sent, and the body let go of.
        let Some(progress) = self.progress.as_ref().filter(|progress| Arc::strong_count(progress) > 1) else {
            return Poll::Pending;
        };
        // Before the look: what comes to be after it is heard of.
        let before = progress.listen(Some(cx.waker().clone()));
        drop(before);
        if self.waiting_since().is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn taken(&self) {
        let nanos = clock::now().saturating_duration_since(self.start).as_nanos();
        self.note(u64::try_from(nanos).unwrap_or(SENDER - 1).min(SENDER - 1));
    }

    fn note(&self, progress: u64) {
        if let Some(shared) = &self.progress {
            shared.taken.store(progress, Relaxed);
        }
    }

    fn nothing_to_take(&self) {
        self.note(SENDER);
        let listener = self.progress.as_ref().and_then(|progress| progress.listen(None));
        listener.inspect(Waker::wake_by_ref);
    }
}

// === impl Progress ===

impl Progress {
    fn listen(&self, listener: Option<Waker>) -> Option<Waker> {
        let mut current = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, listener)
    }
}

// === impl UploadBody ===

impl<B> UploadBody<B> {
    /// A body that nobody watches.
    pub(crate) fn unwatched(body: B) -> Self {
        Self { body, upload: None }
    }
}

impl<B: Body> Body for UploadBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        if let Some(upload) = this.upload {
            if polled.is_pending() {
                upload.nothing_to_take();
            } else {
                upload.taken();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::channel::Channel;
    use http_body_util::{BodyExt, Empty};
    use std::future::poll_fn;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn without_a_body_the_wait_begins_with_the_call() {
        let start = clock::now();
        let (upload, _body) = Upload::watch(Empty::<bytes::Bytes>::new());
        tokio::time::advance(S).await;
        assert_eq!(upload.waiting_since(), Some(start));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_is_not_the_upstreams_fault() {
        let start = clock::now();
        let (mut sender, body) = Channel::<bytes::Bytes>::new(8);
        let (upload, mut body) = Upload::watch(body);
        // The upstream has not begun to read: we wait for it.
        tokio::time::advance(S).await;
        assert_eq!(upload.waiting_since(), Some(start));
        // It reads, and there is nothing to read.
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await.is_pending());
        assert_eq!(upload.waiting_since(), None);
        // It took a frame, and takes no more.
        sender.send_data("x".into()).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(upload.waiting_since(), Some(start + S));
        tokio::time::advance(S).await;
        assert_eq!(upload.waiting_since(), Some(start + S));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_let_go_of_is_not_waited_for() {
        let start = clock::now();
        let (_sender, body) = Channel::<bytes::Bytes>::new(8);
        let (upload, mut body) = Upload::watch(body);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await.is_pending());
        tokio::time::advance(S).await;
        drop(body);
        assert_eq!(upload.waiting_since(), Some(start + S));
    }
}
