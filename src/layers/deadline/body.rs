use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::future::Limit;
use super::layer::DeadlineLayer;
use crate::body::boxed::{self, Polled};
use crate::body::response::ResponseBody;
use crate::error::{BoxError, DeadlineExceeded};
use crate::event::Event;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// The response body of [`DeadlineService`](crate::DeadlineService).
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        body: ResponseBody<B>,
        limit: Option<Limit>,
    }
}

// === impl DeadlineBody ===

impl<B> DeadlineBody<B> {
    pub(super) fn limited(response: Response<B>, limit: Option<Limit>) -> Response<Self> {
        response.map(|body| Self { body: ResponseBody::inner(body), limit })
    }

    pub(super) fn refuse(rejection: Rejection, wire: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, wire).map(|body| Self { body, limit: None })
    }
}

impl<B> DeadlineBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    /// The first poll, and those after the deadline. The timer is armed even where a frame is ready: a fast upstream
    /// with a slow reader is never pending.
    #[inline(never)]
    fn poll_and_look(mut body: Pin<&mut ResponseBody<B>>, limit: &mut Limit, cx: &mut Context<'_>) -> Polled {
        let polled = body.as_mut().poll_frame(cx);
        match &polled {
            Poll::Pending => Self::poll_passed(body, limit, cx),
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => match Self::poll_passed(body, limit, cx) {
                Poll::Pending => polled,
                passed => passed,
            },
            // What ends the body is handed on, however late.
            Poll::Ready(_) => polled,
        }
    }

    /// Ready with an error, once the deadline has passed.
    #[inline]
    fn poll_passed(body: Pin<&mut ResponseBody<B>>, limit: &mut Limit, cx: &mut Context<'_>) -> Polled {
        ready!(limit.timer.poll_until(limit.deadline.instant(), cx));
        body.give_up();
        Poll::Ready(Some(Err(limit.exceeded())))
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let Some(limit) = this.limit.as_mut() else { return this.body.poll_frame(cx) };
        let _entered = limit.deadline.enter();
        if !limit.timer.is_running() {
            return Self::poll_and_look(this.body, limit, cx);
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

// === impl Limit ===

impl Limit {
    #[cold]
    fn exceeded(&self) -> BoxError {
        self.emitter.emit(&Event::BodyTimedOut { layer: DeadlineLayer::NAME, after: self.total });
        DeadlineExceeded::new(self.total).into()
    }
}
