use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::SupersedeBody;
use super::config::Config;
use super::future::{MessageCall, SupersedeFuture};
use super::reading::Intake;
use super::shared::Shared;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Ends the older messages of a conversation when a newer one comes. See [`SupersedeLayer`](crate::SupersedeLayer).
pub type Supersede<S> = Layered<S, (Arc<Config>, Arc<Shared>)>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, (Arc<Config>, Arc<Shared>)>
where
    S: Service<Request<CallBody>, Response = Response<ResB>> + Clone,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<SupersedeBody<ResB>>;
    type Error = S::Error;
    type Future = SupersedeFuture<S>;

    /// Always ready: a message that is refused, or waits, does not need the service inside. Other calls wait for it in
    /// their future.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.config.0.conversation.is_some() { Poll::Ready(Ok(())) } else { self.inner.poll_ready(cx) }
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request = request.map(CallBody::new);
        let (config, shared) = &self.config;
        if config.conversation.is_none() {
            return SupersedeFuture::called(self.inner.call(request));
        }
        SupersedeFuture::new(MessageCall::next(self.inner.clone(), Intake::of(request, config, shared)))
    }
}
