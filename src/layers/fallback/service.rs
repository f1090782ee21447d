use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::FallbackBody;
use super::future::FallbackFuture;
use super::layer::{Config, NAME};
use super::session::Session;
use crate::body::request::CallBody;
use crate::body::request::Resend;
use crate::call::NoFallback;
use crate::error::BoxError;
use crate::event::Event;

/// Asks a backup what the service inside cannot answer. See [`FallbackLayer`](crate::FallbackLayer).
#[derive(Debug)]
pub struct Fallback<S, Bk> {
    inner: S,
    config: Arc<Config<Bk>>,
}

// === impl Fallback ===

impl<S, Bk> Fallback<S, Bk> {
    pub(super) fn new(inner: S, config: Arc<Config<Bk>>) -> Self {
        Self { inner, config }
    }
}

impl<S: Clone, Bk> Clone for Fallback<S, Bk> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), config: self.config.clone() }
    }
}

impl<S, Bk, ReqB, ResB, BkB> Service<Request<ReqB>> for Fallback<S, Bk>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    S::Error: Error + 'static,
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
    ReqB: Body<Data = Bytes> + Send + 'static,
    ReqB::Error: Into<BoxError>,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
    BkB: Body<Data = Bytes> + 'static,
    BkB::Error: Into<BoxError> + 'static,
{
    type Response = Response<FallbackBody<ResB, BkB>>;
    type Error = S::Error;
    type Future = FallbackFuture<S, Bk>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let mut request = request.map(CallBody::new);
        let wanted = request.extensions().get::<NoFallback>().is_none();
        // What follows the head of a CONNECT is a tunnel, and not a body that could be sent again.
        if !self.config.is_on() || !wanted || request.method() == Method::CONNECT {
            return FallbackFuture::passing(self.inner.call(request));
        }
        let resend = Resend::keep(&mut request, self.config.replay_limit);
        let call = self.inner.call(request);
        let Some(resend) = resend else {
            let reason = "the request body is larger than the replay limit";
            self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
            return FallbackFuture::passing(call);
        };
        FallbackFuture::attempting(call, Session::new(self.config.clone(), resend))
    }
}
