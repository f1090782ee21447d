use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::super::layer::Config;
use super::super::service::prepare;
use super::body::EarlySseHeartbeatBody;
use super::future::EarlySseHeartbeatFuture;
use crate::error::BoxError;
use crate::proto::event_stream;

/// Keeps event streams of the service inside alive, from before they begin. See
/// [`EarlySseHeartbeatLayer`](crate::EarlySseHeartbeatLayer).
#[derive(Clone, Debug)]
pub struct EarlySseHeartbeat<S> {
    inner: S,
    config: Config,
    after: Duration,
}

// === impl EarlySseHeartbeat ===

impl<S> EarlySseHeartbeat<S> {
    pub(super) fn new(inner: S, config: Config, after: Duration) -> Self {
        Self { inner, config, after }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for EarlySseHeartbeat<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<EarlySseHeartbeatBody<S::Future, ResB>>;
    type Error = S::Error;
    type Future = EarlySseHeartbeatFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let (config, no_transform) = prepare(&self.config, &request);
        let may_begin = config.interval.is_some() && self.after < Duration::MAX && !no_transform;
        if !(may_begin && event_stream::is_expected(&request)) {
            return EarlySseHeartbeatFuture::following(self.inner.call(request), config, no_transform);
        }
        request.headers_mut().remove(ACCEPT_ENCODING);
        EarlySseHeartbeatFuture::beginning(self.inner.call(request), config, self.after)
    }
}
