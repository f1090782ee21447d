use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::ResumeBody;
use super::config::{Config, NAME};
use super::resume_source::ResumeSource;
use super::session::Session;
use crate::body::request::{CallBody, Resend, head_of};
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::digests;
use crate::proto::event_stream::EventStream;
use crate::proto::resume::Recognised;

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
        pending: Option<Box<Pending<S>>>,
    }
}

/// The state to continue an answer that has not arrived yet.
pub(super) struct Pending<S> {
    service: S,
    config: Arc<Config>,
    kept: ResumeSource,
    /// The server's cursor, if it has one.
    recognised: Option<Recognised>,
}

// === impl Pending ===

impl<S> Pending<S> {
    /// Keeps the source of the request for the rest; `None` if it is too large.
    pub(super) fn new(
        service: S,
        config: &Arc<Config>,
        request: &mut Request<CallBody>,
        recognised: Option<Recognised>,
        restarts: bool,
    ) -> Option<Self> {
        let resends = recognised.as_ref().is_some_and(|recognised| recognised.by.resend);
        let mut kept = None;
        if resends || restarts {
            let resend = Resend::keep(request, config.replay_limit, &config.memory);
            kept = resend.map(|resend| ResumeSource::Request { resend: Box::new(resend), restarts });
        }
        // With a cursor that needs no body, the head alone will do.
        if kept.is_none() && recognised.is_some() && !resends {
            kept = Some(ResumeSource::Head(Box::new(head_of(request))));
        }
        Some(Self { service, config: Arc::clone(config), kept: kept?, recognised })
    }
}

// === impl ResumeFuture ===

impl<S> ResumeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    pub(super) fn new(call: S::Future, pending: Option<Box<Pending<S>>>) -> Self {
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
        let pending = this.pending.take().filter(|_| response.status().is_success());
        let Some(pending) = pending else { return Poll::Ready(Ok(response.map(ResumeBody::pass))) };
        match EventStream::of(response.headers()) {
            EventStream::Plain => {}
            EventStream::Encoded => {
                let reason = "the event stream is compressed";
                pending.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
                return Poll::Ready(Ok(response.map(ResumeBody::pass)));
            }
            EventStream::No => return Poll::Ready(Ok(response.map(ResumeBody::pass))),
        }
        // The rest may have other bytes, and another length, than the original.
        response.headers_mut().remove(CONTENT_LENGTH);
        digests::remove(response.headers_mut());
        let Pending { service, config, kept, recognised } = *pending;
        let session = Session::new(service, config, kept, recognised, &response);
        Poll::Ready(Ok(response.map(|body| ResumeBody::following(body, session))))
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
