use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::config::NAME;
use super::limit::DeadlineLimit;
use crate::body::boxed::{self, Polled};
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::response::ResponseBody;
use crate::error::{BoxError, DeadlineExceeded};
use crate::event::Event;

/// The response body of [`DeadlineService`](crate::deadline::DeadlineService).
pub type DeadlineBody<B> = MonitoredBody<B, DeadlineLimit>;

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for DeadlineLimit {
    #[inline]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        let _entered = self.enter();
        if !self.take_skips_clock() {
            return poll_untimed(body, self, cx);
        }
        let polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return poll_passed(body, self, cx);
        }
        polled
    }
}

/// Without a running timer, a ready frame reads the clock: a fast upstream with a slow reader is never pending.
#[inline(never)]
fn poll_untimed<B>(mut body: Pin<&mut ResponseBody<B>>, limit: &mut DeadlineLimit, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    let polled = body.as_mut().poll_frame(cx);
    match &polled {
        Poll::Pending => poll_passed(body, limit, cx),
        Poll::Ready(Some(Ok(frame))) if frame.is_data() && limit.has_passed(cx) => exceeded(body, limit),
        // The end of the body is forwarded, however late.
        Poll::Ready(_) => polled,
    }
}

/// Ready with an error, once the deadline has passed.
#[inline]
fn poll_passed<B>(body: Pin<&mut ResponseBody<B>>, limit: &mut DeadlineLimit, cx: &mut Context<'_>) -> Polled {
    ready!(limit.poll_frame_passed(cx));
    exceeded(body, limit)
}

#[cold]
fn exceeded<B>(body: Pin<&mut ResponseBody<B>>, limit: &DeadlineLimit) -> Polled {
    body.drop_inner();
    limit.emitter.emit(&Event::BodyTimedOut { layer: NAME, after: limit.total });
    Poll::Ready(Some(Err(DeadlineExceeded::new(limit.total).into())))
}
