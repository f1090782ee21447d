use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};

use super::state::{HeartbeatState, Mode};
use crate::body::boxed::{self, Polled};
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::policy::heartbeat_schedule::NextAction;
use crate::rt::clock;

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
            _ => self.on_unusual(&mut polled),
        }
        polled
    }

    fn is_end_stream(&self, body: &ResponseBody<B>) -> bool {
        body.is_end_stream()
            && match &self.mode {
                Mode::Pending(_) => false,
                Mode::Last(last) => last.is_over(),
                Mode::BomPending(mark) => mark.is_empty(),
                Mode::Follow | Mode::Over => true,
            }
    }

    fn size_hint(&self, body: &ResponseBody<B>) -> SizeHint {
        let inner = body.size_hint();
        let least = match &self.mode {
            Mode::Over => return inner,
            _ if self.is_end_stream(body) => return SizeHint::with_exact(0),
            Mode::Follow => inner.lower(),
            // A mark may be removed.
            Mode::BomPending(_) => inner.lower().saturating_sub(3),
            Mode::Pending(_) | Mode::Last(_) => 0,
        };
        let mut hint = SizeHint::new();
        hint.set_lower(least);
        hint
    }
}

/// Waits for a heartbeat or the end, since the upstream has sent nothing.
#[inline]
fn poll_silence<B>(body: Pin<&mut ResponseBody<B>>, state: &mut HeartbeatState<B>, cx: &mut Context<'_>) -> Polled {
    if let Some(notice) = state.notice(cx) {
        return notice;
    }
    let now = state.schedule.waiting(clock::now);
    let Some((at, due)) = state.schedule.due(state.may_beat()) else { return Poll::Pending };
    ready!(match now {
        Some(now) => state.timeout.poll_until_from(now, at, cx),
        None => state.timeout.poll_until(at, cx),
    });
    match due {
        NextAction::Beat => state.beat(),
        NextAction::End => {
            body.drop_inner();
            state.end()
        }
    }
}

/// Polls in every mode but [`Mode::Follow`].
#[cold]
#[inline(never)]
fn poll_special<B>(mut body: Pin<&mut ResponseBody<B>>, state: &mut HeartbeatState<B>, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    loop {
        let owes_beat = !state.added && state.may_beat();
        match &mut state.mode {
            Mode::Over => return body.poll_frame(cx),
            Mode::Last(last) => return last.poll(cx),
            Mode::Pending(_) if owes_beat => return state.beat(),
            Mode::Pending(pending) => match pending.0.poll(cx) {
                Poll::Pending => return poll_silence(body, state, cx),
                Poll::Ready(Ok(answer)) => {
                    state.answered(&answer);
                    body.set(ResponseBody::inner(answer.into_body()));
                }
                Poll::Ready(Err(err)) => return state.fail(err),
            },
            Mode::Follow | Mode::BomPending(_) => {}
        }
        let mut polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            return poll_silence(body, state, cx);
        }
        let was_empty = is_empty_data(&polled);
        state.on_unusual(&mut polled);
        // Data that is withheld or removed completely is not a frame.
        if was_empty || !is_empty_data(&polled) {
            return polled;
        }
    }
}

fn is_empty_data(polled: &Polled) -> bool {
    matches!(polled, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty))
}
