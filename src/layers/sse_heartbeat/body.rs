use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::state::{HeartbeatState, Mode};
use crate::body::boxed::{self, Polled};
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::policy::heartbeat_schedule::NextAction;
use crate::rt::clock;

pin_project! {
    /// The response body of [`SseHeartbeat`](crate::sse_heartbeat::SseHeartbeat).
    #[derive(Debug)]
    pub struct SseHeartbeatBody<B> {
        // Over, as long as there is no answer.
        #[pin]
        body: ResponseBody<B>,
        // `None`: a response that this layer passes untouched.
        state: Option<HeartbeatState<B>>,
    }
}

// === impl SseHeartbeatBody ===

impl<B> SseHeartbeatBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { body: ResponseBody::inner(body), state: None }
    }

    pub(super) fn with(body: B, state: HeartbeatState<B>) -> Self {
        Self { body: ResponseBody::inner(body), state: Some(state) }
    }

    pub(super) fn pending(state: HeartbeatState<B>) -> Self {
        Self { body: ResponseBody::Over, state: Some(state) }
    }

    /// Waits for a heartbeat or the end, since the upstream has sent nothing.
    #[inline]
    fn poll_silence(body: Pin<&mut ResponseBody<B>>, state: &mut HeartbeatState<B>, cx: &mut Context<'_>) -> Polled {
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
                body.give_up();
                state.end()
            }
        }
    }
}

impl<B> SseHeartbeatBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    /// Polls in every mode but [`Mode::Follow`].
    #[cold]
    #[inline(never)]
    fn poll_special(
        mut body: Pin<&mut ResponseBody<B>>,
        state: &mut HeartbeatState<B>,
        cx: &mut Context<'_>,
    ) -> Polled {
        loop {
            let owes_beat = !state.added && state.may_beat();
            match &mut state.mode {
                Mode::Over => return body.poll_frame(cx),
                Mode::Last(last) => return last.poll(cx),
                Mode::Pending(_) if owes_beat => return state.beat(),
                Mode::Pending(pending) => match pending.0.poll(cx) {
                    Poll::Pending => return Self::poll_silence(body, state, cx),
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
                return Self::poll_silence(body, state, cx);
            }
            let was_empty = is_empty_data(&polled);
            state.on_unusual(&mut polled);
            // Data that is withheld or removed completely is not a frame.
            if was_empty || !is_empty_data(&polled) {
                return polled;
            }
        }
    }
}

fn is_empty_data(polled: &Polled) -> bool {
    matches!(polled, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty))
}

impl<B> Body for SseHeartbeatBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let Some(state) = this.state.as_mut() else { return this.body.poll_frame(cx) };
        if !matches!(state.mode, Mode::Follow) {
            return Self::poll_special(this.body, state, cx);
        }
        let mut polled = this.body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return Self::poll_silence(this.body, state, cx);
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => state.follow(frame),
            _ => state.on_unusual(&mut polled),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self.state.as_ref().map(|state| &state.mode) {
            Some(Mode::Pending(_)) => false,
            Some(Mode::Last(last)) => last.is_over() && self.body.is_end_stream(),
            Some(Mode::BomPending(mark)) => mark.is_empty() && self.body.is_end_stream(),
            _ => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let least = match self.state.as_ref().map(|state| &state.mode) {
            None | Some(Mode::Over) => return inner,
            _ if self.is_end_stream() => return SizeHint::with_exact(0),
            Some(Mode::Follow) => inner.lower(),
            // A mark may be removed.
            Some(Mode::BomPending(_)) => inner.lower().saturating_sub(3),
            Some(Mode::Pending(_) | Mode::Last(_)) => 0,
        };
        let mut hint = SizeHint::new();
        hint.set_lower(least);
        hint
    }
}
