use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::FirstByteTimeoutBody;
use super::future::{FirstByteTimeoutFuture, Wait};
use super::layer::{Config, FirstByteEvent};
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::rejection::RejectionFormat;

/// Refuses to wait too long for the first data of the service inside. See
/// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer).
#[derive(Clone, Debug)]
pub struct FirstByteTimeout<S> {
    inner: S,
    config: Config,
}

// === impl FirstByteTimeout ===

impl<S> FirstByteTimeout<S> {
    pub(super) fn new(inner: S, config: Config) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for FirstByteTimeout<S>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    ReqB: Body<Data = Bytes> + Send + 'static,
    ReqB::Error: Into<BoxError>,
    ResB: Body<Data = Bytes> + Unpin + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<FirstByteTimeoutBody<ResB>>;
    type Error = S::Error;
    type Future = FirstByteTimeoutFuture<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut request = request.map(CallBody::new);
        let Some(limit) = self.config.limit else {
            return FirstByteTimeoutFuture::passing(self.inner.call(request));
        };
        let limit = request.extensions().get().map_or(limit, |profile: &TimeoutProfile| profile.first_byte);
        let until = match *request.method() {
            // What follows the head is not a body.
            Method::HEAD | Method::CONNECT => FirstByteEvent::Headers,
            _ => self.config.until,
        };
        let wire = RejectionFormat::of_request(&request);
        let upload = request.body_mut().watch();
        let call = self.inner.call(request);
        FirstByteTimeoutFuture::waiting(call, Wait::new(limit, until, upload, wire, self.config.emitter.clone()))
    }
}
