use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::RejectionsAsErrorsFuture;
use crate::error::BoxError;

/// Turns refusals of the layers inside into errors. See [`RejectionsAsErrorsLayer`](crate::RejectionsAsErrorsLayer).
#[derive(Clone, Debug)]
pub struct RejectionsAsErrors<S> {
    inner: S,
    enabled: bool,
}

// === impl RejectionsAsErrors ===

impl<S> RejectionsAsErrors<S> {
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

impl<S, ReqB, ResB> Service<Request<ReqB>> for RejectionsAsErrors<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResB>;
    type Error = BoxError;
    type Future = RejectionsAsErrorsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        RejectionsAsErrorsFuture::new(self.inner.call(request), self.enabled)
    }
}
