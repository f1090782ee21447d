use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::session::{Next, Session};
use crate::body::boxed::Polled;
use crate::body::frame_budget::FrameBudget;
use crate::body::request::CallBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`Resume`](crate::resume::Resume): the upstream's, and after a break its rest.
    pub struct ResumeBody<S, B>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        body: ResponseBody<B>,
        // `None`: the body is passed on as it is.
        session: Option<Box<Session<S>>>,
    }
}

// === impl ResumeBody ===

impl<S, B> ResumeBody<S, B>
where
    S: Service<Request<CallBody>>,
{
    pub(super) fn pass(body: B) -> Self {
        Self { body: ResponseBody::inner(body), session: None }
    }

    pub(super) fn following(body: B, session: Session<S>) -> Self {
        Self { body: ResponseBody::inner(body), session: Some(Box::new(session)) }
    }
}

impl<S, B> ResumeBody<S, B>
where
    S: Service<Request<CallBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    fn poll_followed(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let Some(session) = this.session.as_deref_mut() else { return this.body.poll_frame(cx) };
            let next = if session.reads() {
                match ready!(this.body.as_mut().poll_frame(cx)) {
                    Some(Ok(frame)) => session.frame(frame),
                    Some(Err(err)) => session.failed(err),
                    None => session.end(None),
                }
            } else {
                ready!(session.poll(cx))
            };
            match next {
                Next::Give(frame) => return Poll::Ready(Some(Ok(frame))),
                Next::More => {}
                Next::Aside(frame) => {
                    *this.session = None;
                    return Poll::Ready(Some(Ok(frame)));
                }
                // This closes the upstream's connection.
                Next::Stop => this.body.as_mut().drop_inner(),
                Next::Read(body) => this.body.set(ResponseBody::inner(body)),
                Next::End(err) => {
                    *this.session = None;
                    this.body.as_mut().drop_inner();
                    return Poll::Ready(err.map(Err));
                }
            }
        }
        Poll::Pending
    }
}

impl<S, B> Body for ResumeBody<S, B>
where
    S: Service<Request<CallBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if self.session.is_none() { self.project().body.poll_frame(cx) } else { self.poll_followed(cx) }
    }

    fn is_end_stream(&self) -> bool {
        // A followed stream has ended only when it was read to its end.
        self.session.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.session.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

impl<S, B> fmt::Debug for ResumeBody<S, B>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeBody").field("followed", &self.session.is_some()).finish_non_exhaustive()
    }
}
