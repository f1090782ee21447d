use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::GrpcStatusBody;
use super::future::GrpcStatusFuture;
use crate::error::BoxError;

/// Ends gRPC streams that reach a time limit with a status. See [`GrpcStatusLayer`](crate::GrpcStatusLayer).
#[derive(Clone, Debug)]
pub struct GrpcStatus<S> {
    inner: S,
    enabled: bool,
}

// === impl GrpcStatus ===

impl<S> GrpcStatus<S> {
    pub(super) fn new(inner: S, enabled: bool) -> Self {
        Self { inner, enabled }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for GrpcStatus<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<GrpcStatusBody<ResB>>;
    type Error = S::Error;
    type Future = GrpcStatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        GrpcStatusFuture::new(self.inner.call(request), self.enabled)
    }
}
