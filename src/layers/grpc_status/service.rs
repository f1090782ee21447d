use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::GrpcStatusBody;
use super::future::GrpcStatusFuture;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Whether the layer is on.
#[derive(Clone, Copy, Debug)]
pub struct GrpcStatuses(pub(super) bool);

/// Ends gRPC streams that reach a time limit with a status. See [`GrpcStatusLayer`](crate::GrpcStatusLayer).
pub type GrpcStatus<S> = Layered<S, GrpcStatuses>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, GrpcStatuses>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<GrpcStatusBody<ResB>>;
    type Error = S::Error;
    type Future = GrpcStatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        GrpcStatusFuture::new(self.inner.call(request), self.config.0)
    }
}
