use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::state::{HeartbeatState, Mode};
use crate::body::boxed::{self, Polled};
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::response::ResponseBody;
use crate::error::BoxError;

/// The response body of [`SseHeartbeat`](crate::sse_heartbeat::SseHeartbeat): without a state it passes untouched. The inner
/// body is over as long as there is no answer.
pub type SseHeartbeatBody<B> = MonitoredBody<B, HeartbeatState<B>>;

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for HeartbeatState<B> {
    #[inline]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        if !matches!(self.mode, Mode::Follow) {
            return poll_special(body, self, cx);
        }
        let mut polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return poll_silence(body, self, cx);
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => self.follow(frame),
            _ => self.on_end(&mut polled),
        }
        polled
    }

    fn is_end_stream(&self, body: &ResponseBody<B>) -> bool {
        body.is_end_stream() && self.mode.is_over()
    }

    fn size_hint(&self, body: &ResponseBody<B>) -> SizeHint {
        self.mode.size(body.size_hint(), self.is_end_stream(body))
    }
}

/// Waits for a heartbeat or the end, since the upstream has sent nothing.
#[inline]
fn poll_silence<B>(body: Pin<&mut ResponseBody<B>>, state: &mut HeartbeatState<B>, cx: &mut Context<'_>) -> Polled {
    let Some(inserted) = ready!(state.poll_silence(cx)) else {
        body.drop_inner();
        return state.end();
    };
    Poll::Ready(Some(Ok(Frame::data(inserted))))
}

/// Polls in every mode but [`Mode::Follow`].
#[cold]
#[inline(never)]
fn poll_special<B>(mut body: Pin<&mut ResponseBody<B>>, state: &mut HeartbeatState<B>, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    let owes_beat = state.owes_beat();
    match &mut state.mode {
        Mode::Over => return body.poll_frame(cx),
        Mode::Last(last) => return last.poll(cx),
        Mode::Pending(_) if owes_beat => return Poll::Ready(Some(Ok(Frame::data(state.beat())))),
        Mode::Pending(pending) => match pending.0.poll(cx) {
            Poll::Pending => return poll_silence(body, state, cx),
            Poll::Ready(Ok(answer)) => body.set(ResponseBody::inner(state.answered(answer))),
            Poll::Ready(Err(err)) => return state.fail(err),
        },
        Mode::Follow | Mode::BomPending(_) => {}
    }
    loop {
        let mut polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            return poll_silence(body, state, cx);
        }
        if state.on_ready(&mut polled) {
            return polled;
        }
    }
}
