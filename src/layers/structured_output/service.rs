use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::StructuredOutputBody;
use super::call;
use super::config::Config;
use super::future::{CheckedCall, StructuredOutputFuture};
use super::request::{asks_for_text, kind_of};
use crate::body::request::{CallBody, Next};
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Checks that answers have the form that was asked for. See [`StructuredOutputLayer`](crate::StructuredOutputLayer).
pub type StructuredOutput<S> = Layered<S, Arc<Config>>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Arc<Config>>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Future: Send, Error: Send> + Clone + Send + 'static,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
{
    type Response = Response<StructuredOutputBody<ResB>>;
    type Error = S::Error;
    type Future = StructuredOutputFuture<S, ResB>;

    /// Always ready if the layer is on: the future reads the request before it waits for the inner service.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.config.enabled { Poll::Ready(Ok(())) } else { self.inner.poll_ready(cx) }
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request = request.map(CallBody::new);
        if !self.config.enabled {
            return StructuredOutputFuture::called(self.inner.call(request));
        }
        let service = self.inner.clone();
        let in_memory = request.body().in_memory().filter(|data| data.len() <= self.config.max_body_bytes);
        let is_text = |data: &Bytes| asks_for_text(request.extensions(), data, &self.config);
        let is_checked = kind_of(&request).is_some() && !in_memory.is_some_and(is_text);
        StructuredOutputFuture::new(if is_checked {
            Next::Handle(CheckedCall::new(call::run(service, request, Arc::clone(&self.config))))
        } else {
            Next::Pass(service, request)
        })
    }
}
