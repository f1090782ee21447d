use std::error::Error;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::config::{Config, NAME};
use super::future::RetryAfterBackoffFuture;
use super::session::Session;
use crate::body::request::{CallBody, Resend};
use crate::error::BoxError;
use crate::event::Event;
use crate::rt::clock;
use crate::rt::layered::Layered;
use crate::rt::per_thread::PerThread;

/// Retries failed calls to the service inside. See
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer).
pub type RetryAfterBackoff<S> = Layered<S, PerThread<Config>>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, PerThread<Config>>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Error: Error + 'static> + Clone,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = RetryAfterBackoffFuture<S, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut request = request.map(CallBody::new);
        if !self.config.applies_to(&request) {
            return RetryAfterBackoffFuture::passing(self.inner.call(request));
        }
        self.config.budget.deposit(clock::now);
        self.config.mark_first(&mut request);
        let Some(resend) = Resend::keep(&mut request, self.config.replay_limit, &self.config.memory) else {
            let reason = "the request body is larger than the replay limit";
            self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
            return RetryAfterBackoffFuture::passing(self.inner.call(request));
        };
        // The service that is ready makes the first attempt; its clone waits to be ready before the second.
        let service = self.inner.clone();
        let call = self.inner.call(request);
        RetryAfterBackoffFuture::attempting(call, Session::new(service, self.config.hold(), resend))
    }
}
