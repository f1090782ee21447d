use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::FirstByteTimeoutBody;
use super::config::{Config, FirstByteEvent};
use super::future::FirstByteTimeoutFuture;
use super::limit::FirstByteLimit;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::proto::{bodiless, event_stream};
use crate::rejection::RejectionFormat;
use crate::rt::layered::Layered;

/// Refuses when the first data of the service inside takes too long. See
/// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer).
pub type FirstByteTimeout<S> = Layered<S, Config>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Config>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    type Response = Response<FirstByteTimeoutBody<ResB>>;
    type Error = S::Error;
    type Future = FirstByteTimeoutFuture<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut request = request.map(CallBody::new);
        if !self.config.enabled {
            return FirstByteTimeoutFuture::passing(self.inner.call(request));
        }
        let profile = request.extensions().get::<TimeoutProfile>().copied();
        let first_byte = profile.map_or(self.config.limit, |profile| profile.first_byte);
        // The limit of an answer that is not expected to stream, if answers have their own limit.
        let answer = self.config.answer.filter(|_| !event_stream::is_expected(&request));
        let answer = answer.map(|answer| profile.map_or(answer, |profile| profile.answer));
        let bodiless = bodiless::to_method(request.method());
        let until = if bodiless { FirstByteEvent::Headers } else { self.config.until };
        let format = RejectionFormat::of_request(&request);
        let upload = request.body_mut().watch();
        let mut wait =
            FirstByteLimit::new(answer.unwrap_or(first_byte), until, upload, format, self.config.observers.emitter());
        if answer.is_some() {
            wait = wait.unless_stream(first_byte);
        }
        FirstByteTimeoutFuture::waiting(self.inner.call(request), wait)
    }
}
