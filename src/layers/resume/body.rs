use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, SizeHint};
use tower_service::Service;

use super::session::{NextFrame, Session};
use crate::body::boxed::Polled;
use crate::body::frame_budget::FrameBudget;
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::request::CallBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

/// The response body of [`Resume`](crate::resume::Resume): the upstream's, and after a break its rest.
pub type ResumeBody<S, B> = MonitoredBody<B, Option<Box<Session<S>>>>;

/// `None`: the stream is not followed any more.
impl<S, B> Monitor<B> for Option<Box<Session<S>>>
where
    S: Service<Request<CallBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let Some(session) = self.as_deref_mut() else { return body.poll_frame(cx) };
            let next = if session.reads() {
                match ready!(body.as_mut().poll_frame(cx)) {
                    Some(Ok(frame)) => session.frame(frame),
                    Some(Err(err)) => session.failed(err),
                    None => session.end(None),
                }
            } else {
                ready!(session.poll(cx))
            };
            match next {
                NextFrame::Give(frame) => return Poll::Ready(Some(Ok(frame))),
                NextFrame::More => {}
                NextFrame::Aside(frame) => {
                    *self = None;
                    return Poll::Ready(Some(Ok(frame)));
                }
                // This closes the upstream's connection.
                NextFrame::Stop => body.as_mut().drop_inner(),
                NextFrame::Read(rest) => body.set(ResponseBody::inner(rest)),
                NextFrame::End(err) => {
                    *self = None;
                    body.as_mut().drop_inner();
                    return Poll::Ready(err.map(Err));
                }
            }
        }
        Poll::Pending
    }

    fn is_end_stream(&self, body: &ResponseBody<B>) -> bool {
        // A followed stream has ended only when it was read to its end.
        self.is_none() && body.is_end_stream()
    }

    fn size_hint(&self, body: &ResponseBody<B>) -> SizeHint {
        if self.is_none() { body.size_hint() } else { SizeHint::default() }
    }
}
