use std::error::Error;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::FallbackBody;
use super::config::{AllowedUpstreams, Config};
use super::future::FallbackFuture;
use super::session::Session;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rejection::RejectionFormat;
use crate::rt::layered::Layered;
use crate::rt::per_thread::PerThread;

/// Asks a backup when the service inside, the primary, cannot answer. See [`FallbackLayer`](crate::FallbackLayer).
pub type Fallback<S, Bk> = Layered<S, PerThread<Config<Bk>>>;

impl<S, Bk, ReqB, ResB, BkB> Service<Request<ReqB>> for Layered<S, PerThread<Config<Bk>>>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Error: Error + 'static>,
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
    ReqB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    BkB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Response = Response<FallbackBody<ResB, BkB>>;
    type Error = S::Error;
    type Future = FallbackFuture<S, Bk>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut request = request.map(CallBody::new);
        let config = &self.config;
        match config.route(&request) {
            AllowedUpstreams::Primary => FallbackFuture::calling(self.inner.call(request), None),
            AllowedUpstreams::Backup(within) => {
                request.extensions_mut().insert(within);
                let format = RejectionFormat::of_request(&request);
                let resend = config.keep(&mut request);
                FallbackFuture::pinned(resend.map(|resend| Session::pinned(config.hold(), resend)), format)
            }
            AllowedUpstreams::Both => {
                let resend = config.keep(&mut request);
                let call = self.inner.call(request);
                FallbackFuture::calling(call, resend.map(|resend| Session::new(config.hold(), resend)))
            }
        }
    }
}
