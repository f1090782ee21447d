use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::cancel_watch::CancelWatch;
use super::shared::ConversationCall;
use crate::body::boxed::{self, Polled};
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::observed::Observed;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

/// The response body of [`Supersede`](crate::supersede::Supersede): it fails when a newer message replaces its own.
pub type SupersedeBody<B> = MonitoredBody<Observed<B, Box<ConversationCall>>, CancelWatch>;

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for CancelWatch {
    #[inline]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        if self.cancellation.is_cancelled() {
            return end(body, self);
        }
        let polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            ready!(self.cancellation.poll(cx));
            return end(body, self);
        }
        polled
    }
}

/// Drops the inner body first, which ends the upstream call.
#[cold]
fn end<B>(body: Pin<&mut ResponseBody<B>>, watch: &CancelWatch) -> Polled {
    if body.is_over() {
        return Poll::Ready(None);
    }
    body.drop_inner();
    Poll::Ready(Some(Err(watch.superseded())))
}
