use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResumeBody;
use super::config::Config;
use super::future::ResumeFuture;
use super::pending::PendingStream;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Continues streams that broke. See [`ResumeLayer`](crate::ResumeLayer).
pub type Resume<S> = Layered<S, Arc<Config>>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Arc<Config>>
where
    S: Service<Request<CallBody>, Response = Response<ResB>> + Clone,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<ResumeBody<S, ResB>>;
    type Error = S::Error;
    type Future = ResumeFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut request = request.map(CallBody::new);
        if !self.config.enabled {
            return ResumeFuture::new(self.inner.call(request), None);
        }
        let pending = PendingStream::keep(&self.inner, &self.config, &mut request);
        ResumeFuture::new(self.inner.call(request), pending.map(Box::new))
    }
}
