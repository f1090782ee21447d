use std::error::Error;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::FallbackBody;
use super::config::Config;
use super::future::FallbackFuture;
use super::session::Session;
use crate::body::request::{CallBody, Resend};
use crate::call::{NoFallback, PinTo};
use crate::error::BoxError;
use crate::rejection::RejectionFormat;
use crate::rt::layered::Layered;
use crate::rt::per_thread::PerThread;

/// Asks a backup when the service inside, the primary, cannot answer. See [`FallbackLayer`](crate::FallbackLayer).
pub type Fallback<S, Bk> = Layered<S, PerThread<Config<Bk>>>;

// === impl Fallback ===

impl<S, Bk> Fallback<S, Bk> {
    /// A call that is pinned to the backup, or to an upstream within it.
    #[cold]
    fn call_backup(&self, mut request: Request<CallBody>, within: PinTo) -> FallbackFuture<S, Bk>
    where
        S: Service<Request<CallBody>>,
        Bk: Service<Request<CallBody>> + Clone,
    {
        request.extensions_mut().insert(within);
        let format = RejectionFormat::of_request(&request);
        let resend = Resend::keep(&mut request, self.config.replay_limit, &self.config.memory);
        if resend.is_none() {
            self.config.too_large();
        }
        FallbackFuture::pinned(resend.map(|resend| Session::pinned(self.config.hold(), resend)), format)
    }
}

impl<S, Bk, ReqB, ResB, BkB> Service<Request<ReqB>> for Fallback<S, Bk>
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
        let extensions = request.extensions();
        let pin = extensions.get::<PinTo>();
        let unwanted = extensions.get::<NoFallback>().is_some();
        // A tunnel follows the head of a CONNECT, not a body that could be sent again.
        if !self.config.is_on() || (unwanted && pin.is_none()) || request.method() == Method::CONNECT {
            return FallbackFuture::calling(self.inner.call(request), None);
        }
        if let Some(pin) = pin {
            return match pin.through(&self.config.name) {
                Some(within) => self.call_backup(request, within),
                None => FallbackFuture::calling(self.inner.call(request), None),
            };
        }
        let resend = Resend::keep(&mut request, self.config.replay_limit, &self.config.memory);
        let call = self.inner.call(request);
        let Some(resend) = resend else {
            self.config.too_large();
            return FallbackFuture::calling(call, None);
        };
        FallbackFuture::calling(call, Some(Session::new(self.config.hold(), resend)))
    }
}
