use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::SseHeartbeatBody;
use super::call_config::CallConfig;
use super::config::Config;
use super::future::SseHeartbeatFuture;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Keeps silent event streams of the service inside alive. See [`SseHeartbeatLayer`](crate::SseHeartbeatLayer).
pub type SseHeartbeat<S> = Layered<S, Config>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Config>
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Into<BoxError>>,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<SseHeartbeatBody<ResB>>;
    type Error = S::Error;
    type Future = SseHeartbeatFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let config = CallConfig::new(&self.config, &mut request);
        SseHeartbeatFuture::new(self.inner.call(request), config)
    }
}
