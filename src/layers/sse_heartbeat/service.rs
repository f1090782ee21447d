use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::SseHeartbeatBody;
use super::frame::HeartbeatFrame;
use super::future::SseHeartbeatFuture;
use super::head;
use super::layer::Config;
use crate::error::BoxError;

/// Keeps silent event streams of the service inside alive. See [`SseHeartbeatLayer`](crate::SseHeartbeatLayer).
#[derive(Clone, Debug)]
pub struct SseHeartbeat<S> {
    inner: S,
    config: Config,
}

// === impl SseHeartbeat ===

impl<S> SseHeartbeat<S> {
    pub(super) fn new(inner: S, config: Config) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for SseHeartbeat<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<SseHeartbeatBody<ResB>>;
    type Error = S::Error;
    type Future = SseHeartbeatFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (config, no_transform) = prepare(&self.config, &request);
        SseHeartbeatFuture::new(self.inner.call(request), config, no_transform)
    }
}

/// What holds for this request, and whether its caller forbids changes.
pub(super) fn prepare<B>(config: &Config, request: &Request<B>) -> (Config, bool) {
    let mut config = config.clone();
    if request.method() == Method::HEAD {
        config.interval = None;
    }
    if let Some(frame) = request.extensions().get::<HeartbeatFrame>() {
        config.frame = frame.clone();
    }
    let no_transform = config.interval.is_some() && head::no_transform(request.headers());
    (config, no_transform)
}
