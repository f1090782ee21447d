use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::call::ObservedCall;
use super::outcome::CallEnd;
use crate::body::boxed::Polled;
use crate::body::observed::{BodyEnd, BodyObserver, Observed};
use crate::error::BoxError;

pin_project! {
    /// The response body of [`Observe`](super::Observe).
    pub struct ObserveBody<B> {
        #[pin]
        body: Observed<B, CallWatch>,
    }
}

/// The call, until its body is over.
struct CallWatch(ObservedCall);

// === impl ObserveBody ===

impl<B: Body> ObserveBody<B> {
    pub(super) fn new(body: B, call: Option<ObservedCall>) -> Self {
        Self { body: Observed::new(body, call.map(CallWatch)) }
    }
}

impl<B> Body for ObserveBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for ObserveBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveBody").finish_non_exhaustive()
    }
}

// === impl CallWatch ===

impl BodyObserver for CallWatch {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        self.0.within(|| poll(cx))
    }

    #[inline]
    fn data(&mut self, empty: bool) {
        if !empty {
            self.0.data();
        }
    }

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn over(&mut self, end: BodyEnd<'_>) {
        self.0.ended(match end {
            BodyEnd::Complete => CallEnd::Complete,
            BodyEnd::Failed(_) => CallEnd::Failed,
            BodyEnd::Dropped => CallEnd::Cancelled,
        });
    }
}
