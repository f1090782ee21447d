//! The innermost service: one upstream, spoken to in HTTP/1.1.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, Error, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
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
type Outgoing = UnsyncBoxBody<Bytes, BoxError>;

/// Shorter than the 60 s or so after which servers close idle connections: who closes first has no race to lose.
const POOL_IDLE: Duration = Duration::from_secs(30);

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
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(POOL_IDLE).build(connector)
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
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The client queues, and its pool grows as needed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        // What has no place at a fallback leaves no authority to connect to, which the client answers with an error.
        parts.uri = self.upstream.locate(&parts.uri).unwrap_or_default();
        let body = body.map_err(Into::into).boxed_unsync();
        self.client.request(Request::from_parts(parts, body))
    }
}
