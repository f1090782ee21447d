use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::SupersedeBody;
use super::config::Config;
use super::future::SupersedeFuture;
use super::key::{Recognition, is_message};
use super::reading::{Arrived, Reading};
use super::shared::Shared;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Ends the older messages of a conversation when a newer one comes. See [`SupersedeLayer`](crate::SupersedeLayer).
pub type Supersede<S> = Layered<S, (Arc<Config>, Arc<Shared>)>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Supersede<S>
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
            return SupersedeFuture::calling(self.inner.call(request));
        }
        let service = self.inner.clone();
        if !is_message(&request, config) {
            return SupersedeFuture::passing(service, request);
        }
        let (parts, body) = request.into_parts();
        let mut message = match Recognition::of(&parts, config, shared.callers()) {
            Recognition::Message(message) => message,
            Recognition::Passes(reason) => {
                if let Some(reason) = reason {
                    config.bypassed(reason);
                }
                return SupersedeFuture::passing(service, Request::from_parts(parts, body));
            }
        };
        let (config, shared) = (config.clone(), shared.clone());
        let order = shared.next_order();
        match body.in_memory().filter(|data| data.len() <= config.max_body_bytes) {
            Some(data) => {
                message.read(data);
                let arrived = Arrived { message, order, config, shared };
                SupersedeFuture::arrived(service, Request::from_parts(parts, body), arrived)
            }
            None => {
                let arrives = Arrived { message, order, config, shared };
                SupersedeFuture::reading(service, Reading::new(parts, body, arrives))
            }
        }
    }
}
