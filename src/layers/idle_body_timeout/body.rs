use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::silence::Silence;
use crate::body::boxed::{self, Polled};
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::response::ResponseBody;
use crate::error::BoxError;

/// The response body of [`IdleBodyTimeout`](crate::idle_body_timeout::IdleBodyTimeout).
pub type IdleBodyTimeoutBody<B> = MonitoredBody<B, Silence>;

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for Silence {
    #[inline]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        if self.is_by_events() {
            return poll_events(body, self, cx);
        }
        let polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return poll_silence(body, self, cx);
        }
        self.alive();
        polled
    }
}

/// Polls if only events count as activity.
#[inline(never)]
fn poll_events<B>(mut body: Pin<&mut ResponseBody<B>>, silence: &mut Silence, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    let polled = body.as_mut().poll_frame(cx);
    match &polled {
        Poll::Pending => return poll_silence(body, silence, cx),
        Poll::Ready(Some(Ok(frame))) => silence.judge(frame),
        Poll::Ready(_) => {}
    }
    polled
}

/// Nothing has come.
#[inline]
fn poll_silence<B>(body: Pin<&mut ResponseBody<B>>, silence: &mut Silence, cx: &mut Context<'_>) -> Polled {
    ready!(silence.poll_limit(cx));
    body.drop_inner();
    Poll::Ready(Some(Err(silence.elapsed())))
}
