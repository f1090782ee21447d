use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::DedupBody;
use super::future::{DedupFuture, Gathering};
use super::layer::{Config, DedupLayer};
use super::request::DedupDecision;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::event::Event;
use crate::rejection::{Rejection, RejectionFormat};
use crate::rt::ready::take_ready;
use crate::store::{MemoryStore, Store};

/// Asks the service inside once for several callers who ask the same. See [`DedupLayer`](crate::DedupLayer).
#[derive(Clone, Debug)]
pub struct Dedup<S, St = MemoryStore> {
    inner: S,
    store: St,
    config: Option<Arc<Config>>,
}

// === impl Dedup ===

impl<S, St> Dedup<S, St> {
    pub(super) fn new(inner: S, store: St, config: Option<Arc<Config>>) -> Self {
        Self { inner, store, config }
    }
}

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for Dedup<S, St>
where
    S: Service<Request<CallBody>, Response = Response<ResB>> + Clone,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Body<Data = Bytes> + Send + 'static,
    ReqB::Error: Into<BoxError>,
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<DedupBody<ResB>>;
    type Error = S::Error;
    type Future = DedupFuture<S, St, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request = request.map(CallBody::new);
        let Some(config) = &self.config else {
            return DedupFuture::passing(self.inner.call(request));
        };
        let (parts, body) = request.into_parts();
        match DedupDecision::of(&parts, config) {
            DedupDecision::Aside(reason) => {
                if let Some(reason) = reason {
                    config.emitter.emit(&Event::Bypassed { layer: DedupLayer::NAME, reason });
                }
                DedupFuture::passing(self.inner.call(Request::from_parts(parts, body)))
            }
            DedupDecision::Refused(kind, why) => {
                config.emitter.emit(&Event::Refused { kind });
                let mut rejection = Rejection::new(kind);
                if let Some(why) = why {
                    rejection = rejection.with_source(why);
                }
                DedupFuture::refused(rejection, RejectionFormat::of(&parts.headers))
            }
            DedupDecision::Asks(asked) => {
                let (service, store, config) = (take_ready(&mut self.inner), self.store.clone(), config.clone());
                DedupFuture::gathering(Gathering::new(service, store, config, asked, parts, body))
            }
        }
    }
}
