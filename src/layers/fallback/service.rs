use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::FallbackBody;
use super::future::FallbackFuture;
use super::layer::{Config, NAME};
use super::session::Session;
use crate::body::replay::{Replay, ReplayBody};
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
    S: Service<Request<ReplayBody<ReqB>>, Response = Response<ResB>>,
    S::Error: Error + 'static,
    Bk: Service<Request<ReplayBody<ReqB>>, Response = Response<BkB>> + Clone,
    ReqB: Body<Data = Bytes> + Unpin,
    ReqB::Error: Into<BoxError> + 'static,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError> + 'static,
    BkB: Body<Data = Bytes>,
    BkB::Error: Into<BoxError> + 'static,
{
    type Response = Response<FallbackBody<ResB, BkB>>;
    type Error = S::Error;
    type Future = FallbackFuture<S, Bk, ReqB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        // What follows the head of an upgrade is not a body that could be sent again.
        let upgrade = request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE);
        if !self.config.is_on() || upgrade {
            return FallbackFuture::passing(self.inner.call(request.map(ReplayBody::live)));
        }
        let (head, body) = request.into_parts();
        match Replay::new(body, self.config.replay_limit) {
            Ok(replay) => {
                let call = self.inner.call(Request::from_parts(head.clone(), replay.copy()));
                FallbackFuture::attempting(call, Session::new(self.config.clone(), head, replay))
            }
            Err(body) => {
                let reason = "the request body is larger than the replay limit";
                self.config.emitter.emit(&Event::SteppedAside { layer: NAME, reason });
                FallbackFuture::passing(self.inner.call(Request::from_parts(head, ReplayBody::live(body))))
            }
        }
    }
}
