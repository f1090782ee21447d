use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::DedupBody;
use super::config::Config;
use super::future::{DedupCall, DedupFuture};
use super::reading::Intake;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rt::layered::Layered;
use crate::store::{MemoryStore, Store};

/// Makes one call to the inner service for duplicate requests. See [`DedupLayer`](crate::DedupLayer).
pub type Dedup<S, St = MemoryStore> = Layered<S, (St, Arc<Config>)>;

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for Layered<S, (St, Arc<Config>)>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Future: Send + 'static> + Clone + Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
{
    type Response = Response<DedupBody<ResB>>;
    type Error = S::Error;
    type Future = DedupFuture<S, St, ResB>;

    /// Always ready: a request that joins another one, or gets a stored answer, does not need the inner service. Other
    /// requests wait for it in their future.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.config.1.enabled { Poll::Ready(Ok(())) } else { self.inner.poll_ready(cx) }
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request = request.map(CallBody::new);
        let (store, config) = &self.config;
        if !config.enabled {
            return DedupFuture::called(self.inner.call(request));
        }
        DedupFuture::new(DedupCall::next(Intake::of(self.inner.clone(), store, config, request)))
    }
}
