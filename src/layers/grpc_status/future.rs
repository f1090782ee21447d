use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::{ErrorTrailers, GrpcStatusBody};
use crate::error::BoxError;
use crate::proto::grpc;

pin_project! {
    /// The future of [`GrpcStatus`](crate::grpc_status::GrpcStatus).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct GrpcStatusFuture<F> {
        #[pin]
        inner: F,
        enabled: bool,
    }
}

// === impl GrpcStatusFuture ===

impl<F> GrpcStatusFuture<F> {
    pub(super) fn new(inner: F, enabled: bool) -> Self {
        Self { inner, enabled }
    }
}

impl<F, B, E> Future for GrpcStatusFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<GrpcStatusBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let enabled = *this.enabled && grpc::has_trailers(response.headers());
        Poll::Ready(Ok(response.map(|body| GrpcStatusBody::new(body, enabled.then_some(ErrorTrailers)))))
    }
}
