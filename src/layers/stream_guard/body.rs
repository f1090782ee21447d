use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};

use super::watch::{BodyWatch, WatchStep};
use crate::body::boxed::Polled;
use crate::body::frame_budget::FrameBudget;
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::prefixed::PrefixedBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

/// The response body of [`StreamGuard`](crate::stream_guard::StreamGuard): the part that was withheld, and the watched rest.
pub type StreamGuardBody<B> = PrefixedBody<MonitoredBody<B, BodyWatch>>;

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for BodyWatch {
    #[inline]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        if matches!(self, Self::Nothing) {
            return body.poll_frame(cx);
        }
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let step = match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.frame(frame),
                Poll::Ready(Some(Err(err))) => {
                    self.broke_off();
                    return Poll::Ready(Some(Err(err)));
                }
                Poll::Ready(None) => self.end(None),
                Poll::Pending => ready!(self.poll_limit(cx)),
            };
            match step {
                WatchStep::Give(frame) => return Poll::Ready(Some(Ok(frame))),
                WatchStep::More => {}
                WatchStep::End(rest) => {
                    *self = Self::Nothing;
                    // This closes the upstream's connection, even if data is still to be forwarded.
                    return body.end_with(rest);
                }
            }
        }
        Poll::Pending
    }

    fn is_end_stream(&self, body: &ResponseBody<B>) -> bool {
        // A watched body is complete only when it was read to its end.
        matches!(self, Self::Nothing) && body.is_end_stream()
    }

    fn size_hint(&self, body: &ResponseBody<B>) -> SizeHint {
        if self.hides_length() { SizeHint::default() } else { body.size_hint() }
    }
}
