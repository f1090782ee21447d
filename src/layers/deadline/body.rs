use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::config::NAME;
use super::limit::DeadlineLimit;
use crate::body::boxed::{self, Polled};
use crate::body::response::ResponseBody;
use crate::error::{BoxError, DeadlineExceeded};
use crate::event::Event;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The response body of [`DeadlineService`](crate::deadline::DeadlineService).
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        body: ResponseBody<B>,
        limit: Option<DeadlineLimit>,
    }
}

// === impl DeadlineBody ===

impl<B> DeadlineBody<B> {
    pub(super) fn limited(response: Response<B>, limit: Option<DeadlineLimit>) -> Response<Self> {
        response.map(|body| Self { body: ResponseBody::inner(body), limit })
    }

    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| Self { body, limit: None })
    }
}

impl<B> DeadlineBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    /// Without a running timer, a ready frame reads the clock: a fast upstream with a slow reader is never pending.
    #[inline(never)]
    fn poll_untimed(mut body: Pin<&mut ResponseBody<B>>, limit: &mut DeadlineLimit, cx: &mut Context<'_>) -> Polled {
        let polled = body.as_mut().poll_frame(cx);
        match &polled {
            Poll::Pending => Self::poll_passed(body, limit, cx),
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && limit.has_passed(cx) => Self::exceeded(body, limit),
            // The end of the body is forwarded, however late.
            Poll::Ready(_) => polled,
        }
    }

    /// Ready with an error, once the deadline has passed.
    #[inline]
    fn poll_passed(body: Pin<&mut ResponseBody<B>>, limit: &mut DeadlineLimit, cx: &mut Context<'_>) -> Polled {
        ready!(limit.poll_frame_passed(cx));
        Self::exceeded(body, limit)
    }

    #[cold]
    fn exceeded(body: Pin<&mut ResponseBody<B>>, limit: &DeadlineLimit) -> Polled {
        body.give_up();
        limit.emitter.emit(&Event::BodyTimedOut { layer: NAME, after: limit.total });
        Poll::Ready(Some(Err(DeadlineExceeded::new(limit.total).into())))
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let Some(limit) = this.limit.as_mut() else { return this.body.poll_frame(cx) };
        let _entered = limit.enter();
        if !limit.take_skips_clock() {
            return Self::poll_untimed(this.body, limit, cx);
        }
        let polled = this.body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return Self::poll_passed(this.body, limit, cx);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
