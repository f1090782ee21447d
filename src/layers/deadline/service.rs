use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::DeadlineBody;
use super::config::Config;
use super::future::DeadlineFuture;
use super::limit::DeadlineLimit;
use super::remaining_time::RemainingTime;
use crate::error::BoxError;
use crate::rejection::RejectionFormat;
use crate::rt::clock;
use crate::rt::layered::Layered;

/// Ends calls to the service inside at their deadline. See [`DeadlineLayer`](crate::DeadlineLayer).
///
/// (Its name is not that of its layer, since [`Deadline`](crate::Deadline) is the instant itself.)
pub type DeadlineService<S> = Layered<S, Config>;

impl<S, ReqB, ResB> Service<Request<ReqB>> for Layered<S, Config>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<DeadlineBody<ResB>>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        if !self.config.enabled {
            return DeadlineFuture::new(Some(self.inner.call(request)), None, RejectionFormat::Http);
        }
        let format = RejectionFormat::of_request(&request);
        match RemainingTime::of(&mut request, &self.config, clock::now()) {
            RemainingTime::Unlimited => DeadlineFuture::new(Some(self.inner.call(request)), None, format),
            RemainingTime::Spent => DeadlineFuture::new(None, None, format),
            RemainingTime::Until { deadline, total } => {
                let limit = DeadlineLimit::new(deadline, total, self.config.observers.emitter());
                let call = {
                    let _entered = limit.enter();
                    self.inner.call(request)
                };
                DeadlineFuture::new(Some(call), Some(limit), format)
            }
        }
    }
}
