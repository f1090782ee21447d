//! The body of a request to an upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use pin_project_lite::pin_project;
use tower_buttress::error::BoxError;

pin_project! {
    /// A request's body. Boxed, because layers change its type and the clients need one type.
    pub(crate) struct Outgoing {
        #[pin]
        pub(super) body: UnsyncBoxBody<Bytes, BoxError>,
        pub(super) occupied: Option<Arc<Occupied>>,
    }
}

/// A large upload in progress, counted until it is dropped.
pub(super) struct Occupied(Arc<AtomicUsize>);

// === impl Outgoing ===

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Occupied ===

impl Occupied {
    pub(super) fn new(uploads: &Arc<AtomicUsize>) -> Self {
        uploads.fetch_add(1, Relaxed);
        Self(uploads.clone())
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
