use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::silence::Silence;
use crate::body::boxed::{self, Polled};
use crate::body::response::ResponseBody;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`IdleBodyTimeout`](crate::idle_body_timeout::IdleBodyTimeout).
    #[derive(Debug)]
    pub struct IdleBodyTimeoutBody<B> {
        #[pin]
        body: ResponseBody<B>,
        silence: Silence,
    }
}

// === impl IdleBodyTimeoutBody ===

impl<B> IdleBodyTimeoutBody<B> {
    pub(super) fn new(body: B, silence: Silence) -> Self {
        Self { body: ResponseBody::inner(body), silence }
    }

    /// Nothing has come.
    #[inline]
    fn poll_silence(body: Pin<&mut ResponseBody<B>>, silence: &mut Silence, cx: &mut Context<'_>) -> Polled {
        ready!(silence.poll_limit(cx));
        body.give_up();
        Poll::Ready(Some(Err(silence.elapsed())))
    }
}

impl<B> IdleBodyTimeoutBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    /// Polls if only events count as activity.
    #[inline(never)]
    fn poll_events(mut body: Pin<&mut ResponseBody<B>>, silence: &mut Silence, cx: &mut Context<'_>) -> Polled {
        let polled = body.as_mut().poll_frame(cx);
        match &polled {
            Poll::Pending => return Self::poll_silence(body, silence, cx),
            Poll::Ready(Some(Ok(frame))) => silence.judge(frame),
            Poll::Ready(_) => {}
        }
        polled
    }
}

impl<B> Body for IdleBodyTimeoutBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        if this.silence.is_by_events() {
            return Self::poll_events(this.body, this.silence, cx);
        }
        let polled = this.body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return Self::poll_silence(this.body, this.silence, cx);
        }
        this.silence.alive();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
