use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::StreamGuardBody;
use super::config::Config;
use super::future::{Expected, StreamGuardFuture};
use crate::call::AsksForRest;
use crate::error::BoxError;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::proto::{bodiless, event_stream};

/// Looks whether an answer is what it seems to be. See [`StreamGuardLayer`](crate::StreamGuardLayer).
#[derive(Clone, Debug)]
pub struct StreamGuard<S> {
    inner: S,
    config: Arc<Config>,
}

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

// === impl StreamGuard ===

impl<S> StreamGuard<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, without this layer.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn expect<B>(&self, request: &mut Request<B>) -> Option<Expected> {
        if !self.config.enabled || bodiless::to_method(request.method()) {
            return None;
        }
        let posted = request.method() == Method::POST;
        let dialect =
            self.config.dialect.clone().or_else(|| posted.then(|| self.config.expect(request.uri().path())).flatten());
        // What is compressed cannot be read.
        if posted && dialect.is_some() || event_stream::is_accepted(request.headers()) {
            request.headers_mut().insert(ACCEPT_ENCODING, IDENTITY);
        }
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or_else(|| request.headers().get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
        Some(Expected {
            host: self.config.reasons.host(host),
            first_byte: request.extensions().get().map(|profile: &TimeoutProfile| profile.first_byte),
            generates: posted,
            asks_for_rest: request.extensions().get::<AsksForRest>().is_some(),
            tenant: request.extensions().get().cloned(),
            dialect,
            config: Arc::clone(&self.config),
        })
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for StreamGuard<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes> + Unpin + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Response = Response<StreamGuardBody<ResB>>;
    type Error = S::Error;
    type Future = StreamGuardFuture<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let expected = self.expect(&mut request);
        StreamGuardFuture::new(self.inner.call(request), expected)
    }
}
