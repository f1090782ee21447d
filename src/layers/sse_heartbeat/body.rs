use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::heart::{Heart, Mode};
use crate::body::boxed::{self, Polled};
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::policy::pulse::Due;
use crate::rt::clock;

pin_project! {
    /// The response body of [`SseHeartbeat`](crate::SseHeartbeat).
    #[derive(Debug)]
    pub struct SseHeartbeatBody<B> {
        #[pin]
        body: ResponseBody<B>,
        // `None`: no event stream of ours.
        heart: Option<Heart>,
    }
}

// === impl SseHeartbeatBody ===

impl<B> SseHeartbeatBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { body: ResponseBody::inner(body), heart: None }
    }

    pub(super) fn with(body: B, heart: Option<Heart>) -> Self {
        Self { body: ResponseBody::inner(body), heart }
    }

    /// Nothing has come.
    #[inline]
    fn poll_silence(body: Pin<&mut ResponseBody<B>>, heart: &mut Heart, cx: &mut Context<'_>) -> Polled {
        heart.pulse.waiting(clock::now);
        let may_beat = heart.frame.may_be_at(&heart.scanner);
        let Some((at, due)) = heart.pulse.due(may_beat) else { return Poll::Pending };
        ready!(heart.timer.poll_until(at, cx));
        match due {
            Due::Beat => heart.beat(),
            Due::End => {
                body.give_up();
                heart.end()
            }
        }
    }
}

impl<B> SseHeartbeatBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    /// Where frames do not pass as they come.
    #[cold]
    #[inline(never)]
    fn poll_apart(mut body: Pin<&mut ResponseBody<B>>, heart: &mut Heart, cx: &mut Context<'_>) -> Polled {
        loop {
            match &mut heart.mode {
                Mode::Over => return body.poll_frame(cx),
                Mode::Last(last) => return last.poll(cx),
                Mode::Follow | Mode::Opened(_) => {}
            }
            let mut polled = body.as_mut().poll_frame(cx);
            if polled.is_pending() {
                return Self::poll_silence(body, heart, cx);
            }
            let empty =
                matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty));
            heart.read(&mut polled);
            let swallowed =
                matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty));
            if empty || !swallowed {
                return polled;
            }
        }
    }
}

impl<B> Body for SseHeartbeatBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let Some(heart) = this.heart.as_mut() else { return this.body.poll_frame(cx) };
        if !matches!(heart.mode, Mode::Follow) {
            return Self::poll_apart(this.body, heart, cx);
        }
        let mut polled = this.body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return Self::poll_silence(this.body, heart, cx);
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => heart.follow(frame),
            _ => heart.read(&mut polled),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let held = match self.heart.as_ref().map(|heart| &heart.mode) {
            Some(Mode::Last(last)) => !last.is_over(),
            Some(Mode::Opened(mark)) => !mark.is_empty(),
            _ => false,
        };
        !held && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let least = match self.heart.as_ref().map(|heart| &heart.mode) {
            None | Some(Mode::Over) => return inner,
            _ if self.is_end_stream() => return SizeHint::with_exact(0),
            Some(Mode::Follow) => inner.lower(),
            // A mark may be taken off.
            Some(Mode::Opened(_)) => inner.lower().saturating_sub(3),
            Some(Mode::Last(_)) => 0,
        };
        let mut hint = SizeHint::new();
        hint.set_lower(least);
        hint
    }
}
