use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::future::Limit;
use super::layer::DeadlineLayer;
use crate::body::boxed::Polled;
use crate::body::response::ResponseBody;
use crate::error::{BoxError, DeadlineExceeded};
use crate::event::Event;
use crate::rejection::{Rejection, Wire};

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

    pub(super) fn refuse(rejection: Rejection, wire: Wire) -> Response<Self> {
        ResponseBody::refuse(rejection, wire).map(|body| Self { body, limit: None })
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let Some(limit) = this.limit else { return this.body.poll_frame(cx) };
        let mut polled = {
            let _entered = limit.deadline.enter();
            this.body.as_mut().poll_frame(cx)
        };
        let over = match &polled {
            // Armed even where a frame is ready: a fast upstream with a slow reader is never pending.
            Poll::Pending => limit.poll_passed(cx),
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => limit.has_passed(cx),
            Poll::Ready(_) => false,
        };
        if over {
            this.body.give_up();
            polled = Poll::Ready(Some(Err(limit.exceeded())));
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
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.poll_until(self.deadline.instant(), cx).is_ready()
    }

    /// Reads no clock once the timer runs.
    #[inline]
    fn has_passed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.timer.is_armed() { self.timer.has_fired() } else { self.poll_passed(cx) }
    }

    #[cold]
    fn exceeded(&self) -> BoxError {
        self.emitter.emit(&Event::BodyElapsed { layer: DeadlineLayer::NAME, after: self.total });
        DeadlineExceeded::new(self.total).into()
    }
}
