use std::task::Context;

use http::HeaderMap;

use super::call::ObservedCall;
use super::outcome::CallEnd;
use crate::body::boxed::Polled;
use crate::body::observed::{BodyEnd, BodyObserver, Observed};

/// The response body of [`Observe`](super::Observe).
pub type ObserveBody<B> = Observed<B, ObservedCall>;

// === impl ObservedCall ===

impl BodyObserver for ObservedCall {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        self.within(|| poll(cx))
    }

    #[inline]
    fn data(&mut self, empty: bool) {
        if !empty {
            self.sent_data();
        }
    }

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn over(&mut self, end: BodyEnd<'_>) {
        self.ended(match end {
            BodyEnd::Complete => CallEnd::Complete,
            BodyEnd::Failed(_) => CallEnd::Failed,
            BodyEnd::Dropped => CallEnd::Cancelled,
        });
    }
}
