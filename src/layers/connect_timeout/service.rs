use std::task::{Context, Poll};

use tower_service::Service;

use super::config::Config;
use super::future::ConnectTimeoutFuture;
use crate::error::BoxError;
use crate::rt::layered::Layered;

/// Fails the connector inside when it takes too long. See [`ConnectTimeoutLayer`](crate::ConnectTimeoutLayer).
pub type ConnectTimeout<S> = Layered<S, Config>;

impl<S, R> Service<R> for Layered<S, Config>
where
    S: Service<R, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConnectTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let limit = self.config.enabled.then_some(self.config.limit);
        ConnectTimeoutFuture::new(self.inner.call(target), limit, self.config.observers.emitter())
    }
}
