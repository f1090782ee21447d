use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::future::RejectionsAsErrorsFuture;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Whether the layer is on.
#[derive(Clone, Copy, Debug)]
pub struct RejectionErrors(pub(super) bool);

/// Turns refusals of the layers inside into errors. See [`RejectionsAsErrorsLayer`](crate::RejectionsAsErrorsLayer).
pub type RejectionsAsErrors<S> = Layered<S, RejectionErrors>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, RejectionErrors>
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Error: Into<BoxError>>,
{
    type Response = Response<ResB>;
    type Error = BoxError;
    type Future = RejectionsAsErrorsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        RejectionsAsErrorsFuture::new(self.inner.call(request), self.config.0)
    }
}
