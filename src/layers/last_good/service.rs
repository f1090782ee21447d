use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::LastGoodBody;
use super::config::Config;
use super::future::{LastGoodCall, LastGoodFuture};
use super::key::PendingKeys;
use super::reading::Reading;
use super::stored::AnswerStore;
use crate::body::request::{CallBody, Next};
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Returns an earlier answer if the inner service fails. See [`LastGoodLayer`](crate::LastGoodLayer).
pub type LastGood<S> = Layered<S, (Arc<AnswerStore>, Arc<Config>)>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, (Arc<AnswerStore>, Arc<Config>)>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Error: Error + 'static> + Clone,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<LastGoodBody<ResB>>;
    type Error = S::Error;
    type Future = LastGoodFuture<S, ResB>;

    /// Always ready if the layer is on: the future reads the request before it waits for the inner service.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.config.1.enabled { Poll::Ready(Ok(())) } else { self.inner.poll_ready(cx) }
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request = request.map(CallBody::new);
        let (store, config) = &self.config;
        if !config.enabled {
            return LastGoodFuture::called(self.inner.call(request));
        }
        let service = self.inner.clone();
        let (parts, body) = request.into_parts();
        let keys = PendingKeys::of(&parts, config);
        let request = Request::from_parts(parts, body);
        LastGoodFuture::new(match keys {
            Ok(keys) => LastGoodCall::reading(service, Reading::new(keys, request, store.clone(), config.clone())),
            Err(reason) => {
                if let Some(reason) = reason {
                    config.bypassed(reason);
                }
                Next::Pass(service, request)
            }
        })
    }
}
