//! The innermost service: one upstream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, Error, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pin_project_lite::pin_project;
use tower::Service;
use tower_buttress::error::BoxError;

use super::upstream::Upstream;

/// Sends requests to `upstream`. Two of them can share a client, and with it its connections.
#[derive(Clone, Debug)]
pub(crate) struct Forward<C> {
    client: Client<C, Outgoing>,
    upstream: Upstream,
}

/// Boxed here, so that whatever a layer makes of a request's body fits one client.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, BoxError>;

/// In a request's extensions: how often the upstream was asked for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<AtomicU32>);

pin_project! {
    /// The future of [`Forward`].
    pub(crate) struct Answering {
        #[pin]
        call: ResponseFuture,
    }
}

/// Shorter than the 60 s or so after which servers close idle connections, so that both never close at once.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Some APIs answer with more than the hundred fields that hyper takes by default.
const MAX_HEADERS: usize = 250;

/// A connector that puts each small event on the wire at once.
pub(crate) fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

pub(crate) fn client<C>(connector: C) -> Client<C, Outgoing>
where
    C: Connect + Clone,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .http1_max_headers(MAX_HEADERS)
        .build(connector)
}

// === impl Asked ===

impl Asked {
    pub(crate) fn times(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Forward ===

impl<C> Forward<C> {
    pub(crate) fn new(client: Client<C, Outgoing>, upstream: Upstream) -> Self {
        Self { client, upstream }
    }
}

impl<C, B> Service<Request<B>> for Forward<C>
where
    C: Connect + Clone + Send + Sync + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The client queues, and its pool grows as needed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        let (mut parts, body) = request.into_parts();
        if let Some(asked) = parts.extensions.get::<Asked>() {
            asked.0.fetch_add(1, Ordering::Relaxed);
        }
        // What has no place at a fallback leaves no authority to connect to, which the client answers with an error.
        parts.uri = self.upstream.locate(&parts.uri).unwrap_or_default();
        let body = body.map_err(Into::into).boxed_unsync();
        Answering { call: self.client.request(Request::from_parts(parts, body)) }
    }
}

// === impl Answering ===

impl Future for Answering {
    type Output = Result<Response<Incoming>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.project().call.poll(cx))?;
        // RFC 9112, 6.3: where both are there, the length is wrong, and a client that believed it would take a part of
        // the answer for the whole.
        if response.headers().contains_key(TRANSFER_ENCODING) {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Poll::Ready(Ok(response))
    }
}
