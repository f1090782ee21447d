use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::IdleBodyTimeoutBody;
use super::config::Config;
use super::future::IdleBodyTimeoutFuture;
use crate::error::BoxError;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::rt::layered::Layered;

/// Ends silent response bodies of the service inside. See [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
pub type IdleBodyTimeout<S> = Layered<S, Config>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Config>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<IdleBodyTimeoutBody<ResB>>;
    type Error = S::Error;
    type Future = IdleBodyTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let limit = self.config.enabled.then(|| {
            let profile = request.extensions().get::<TimeoutProfile>();
            profile.map_or(self.config.limit, |profile| profile.idle)
        });
        let emitter = self.config.observers.emitter();
        IdleBodyTimeoutFuture::new(self.inner.call(request), limit, self.config.activity, emitter)
    }
}
