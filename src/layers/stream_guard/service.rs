use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::StreamGuardBody;
use super::config::Config;
use super::expected::Expected;
use super::future::StreamGuardFuture;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Checks that answers are complete and no errors. See [`StreamGuardLayer`](crate::StreamGuardLayer).
pub type StreamGuard<S> = Layered<S, Arc<Config>>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Arc<Config>>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    type Response = Response<StreamGuardBody<ResB>>;
    type Error = S::Error;
    type Future = StreamGuardFuture<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let expected = Expected::of(&mut request, &self.config);
        StreamGuardFuture::new(self.inner.call(request), expected)
    }
}
