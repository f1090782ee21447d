use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResumeBody;
use super::config::{Config, NAME};
use super::future::{Pending, ResumeFuture};
use crate::body::request::CallBody;
use crate::call::NoRetry;
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::bodiless;
use crate::rt::clock;
use crate::rt::layered::Layered;

/// Continues streams that broke. See [`ResumeLayer`](crate::ResumeLayer).
pub type Resume<S> = Layered<S, Arc<Config>>;

// === impl Resume ===

impl<S> Resume<S> {
    /// Keeps the parts of a request whose answer may be continued.
    fn keep(&self, request: Request<CallBody>) -> (Request<CallBody>, Option<Pending<S>>)
    where
        S: Clone,
    {
        let (head, body) = request.into_parts();
        let unwanted = head.extensions.get::<NoRetry>().is_some() || bodiless::to_method(&head.method);
        let recognised = if unwanted { None } else { self.config.recognise(&head) };
        let restarts = !unwanted && self.config.may_restart(&head);
        let mut request = Request::from_parts(head, body);
        if recognised.is_none() && !restarts {
            return (request, None);
        }
        // A compressed stream cannot be followed.
        let accepted = request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let pending = Pending::new(self.inner.clone(), &self.config, &mut request, recognised, restarts);
        if pending.is_some() {
            self.config.budget.deposit(clock::now);
            return (request, pending);
        }
        let reason = "the request body is larger than the replay limit";
        self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
        // It is not followed.
        match accepted {
            Some(accepted) => request.headers_mut().insert(ACCEPT_ENCODING, accepted),
            None => request.headers_mut().remove(ACCEPT_ENCODING),
        };
        (request, None)
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Resume<S>
where
    S: Service<Request<CallBody>, Response = Response<ResB>> + Clone,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<ResumeBody<S, ResB>>;
    type Error = S::Error;
    type Future = ResumeFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request = request.map(CallBody::new);
        if !self.config.enabled {
            return ResumeFuture::new(self.inner.call(request), None);
        }
        let (request, pending) = self.keep(request);
        ResumeFuture::new(self.inner.call(request), pending.map(Box::new))
    }
}
