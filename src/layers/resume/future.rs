use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::ResumeBody;
use super::pending::PendingStream;
use crate::body::request::CallBody;
use crate::error::BoxError;

pin_project! {
    /// The future of [`Resume`](crate::resume::Resume).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResumeFuture<S>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        call: S::Future,
        // `None`: the answer is passed on as it is.
        pending: Option<Box<PendingStream<S>>>,
    }
}

// === impl ResumeFuture ===

impl<S> ResumeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    pub(super) fn new(call: S::Future, pending: Option<Box<PendingStream<S>>>) -> Self {
        Self { call, pending }
    }
}

impl<S, B> Future for ResumeFuture<S>
where
    S: Service<Request<CallBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<ResumeBody<S, B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.call.poll(cx))?;
        let followed = this.pending.take().and_then(|pending| pending.follow(&mut response));
        Poll::Ready(Ok(response.map(|body| ResumeBody::new(body, followed.map(Some)))))
    }
}

impl<S> fmt::Debug for ResumeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeFuture").finish_non_exhaustive()
    }
}
