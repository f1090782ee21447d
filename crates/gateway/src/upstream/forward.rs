//! The innermost service: one upstream.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::client::legacy::{Client, Error, ResponseFuture};
use pin_project_lite::pin_project;
use tower::Service;
use tower_buttress::error::BoxError;

use super::client::{Connectors, client};
use super::client_set::{ClientSet, SMALL};
use super::outgoing::{Occupied, Outgoing};
use super::url::{Protocol, Upstream};

/// Sends requests, which have their address already, to one upstream.
pub(crate) struct Forward<C>(Arc<Clients<C>>);

struct Clients<C> {
    upstream: Upstream,
    /// The value of `Host`. Copied for each request: all threads would write to one reference count.
    host: Option<Box<[u8]>>,
    set: ClientSet<C>,
    /// For protocol switches, which HTTP/2 does not have.
    upgrades: Client<C, Outgoing>,
}

/// In a request's extensions: the number of upstream calls, and the time of the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamCalls(Arc<CallCounts>);

#[derive(Debug, Default)]
struct CallCounts {
    times: AtomicU32,
    /// From the last request to its answer's head, in microseconds; 0 before that.
    took: AtomicU64,
}

pin_project! {
    /// The future of [`Forward`].
    pub(crate) struct ForwardFuture<C> {
        #[pin]
        call: ResponseFuture,
        clients: Arc<Clients<C>>,
        // An upload counts until all of it was sent and read.
        occupied: Option<Arc<Occupied>>,
        asked: Option<(UpstreamCalls, Instant)>,
    }
}

// === impl UpstreamCalls ===

impl UpstreamCalls {
    pub(crate) fn times(&self) -> u32 {
        self.0.times.load(Relaxed)
    }

    /// The time of the last upstream call to its head, if it has one.
    pub(crate) fn took(&self) -> Option<Duration> {
        Some(self.0.took.load(Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }

    fn begin(&self) -> (Self, Instant) {
        self.0.times.fetch_add(1, Relaxed);
        self.0.took.store(0, Relaxed);
        (self.clone(), Instant::now())
    }

    fn answered(&self, began: Instant) {
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.took.store(micros.max(1), Relaxed);
    }
}

// === impl Forward ===

impl<C: Connect + Clone> Forward<C> {
    pub(crate) fn new(connectors: &Connectors<C>, upstream: Upstream) -> Self {
        Self(Arc::new(Clients {
            set: ClientSet::new(&connectors.any, &upstream),
            upgrades: client(connectors.http1.clone(), &upstream),
            host: upstream.host(),
            upstream,
        }))
    }
}

impl<C, B> Service<Request<B>> for Forward<C>
where
    C: Connect + Clone + Send + Sync + 'static,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = ForwardFuture<C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The client queues, and its pool grows as needed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ForwardFuture<C> {
        let (mut parts, body) = request.into_parts();
        let asked = parts.extensions.get::<UpstreamCalls>().map(UpstreamCalls::begin);
        let body = body.boxed_unsync();
        let is_large = body.size_hint().upper().is_none_or(|bytes| bytes > SMALL);
        let upgrades = parts.headers.contains_key(UPGRADE);
        let Self(clients) = self;
        if !upgrades && clients.upstream.protocol() != Protocol::Http {
            // HTTP/2 has no `Connection` field, and hyper would also remove the fields that it names: `TE`, which gRPC
            // requires.
            parts.headers.remove(CONNECTION);
        }
        if let Some(host) = clients.host.as_deref().and_then(|host| HeaderValue::from_bytes(host).ok()) {
            parts.headers.entry(HOST).or_insert(host);
        }
        let (client, occupied) = if upgrades { (&clients.upgrades, None) } else { clients.set.choose(is_large) };
        let occupied = occupied.map(Arc::new);
        let body = Outgoing { body, occupied: occupied.clone() };
        let call = client.request(Request::from_parts(parts, body));
        ForwardFuture { call, clients: clients.clone(), occupied, asked }
    }
}

impl<C> Clone for Forward<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> fmt::Debug for Forward<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("upstream", &self.0.upstream).finish_non_exhaustive()
    }
}

// === impl Answering ===

impl<C> Future for ForwardFuture<C> {
    type Output = Result<Response<Incoming>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.call.poll(cx))?;
        *this.occupied = None;
        if let Some((asked, began)) = this.asked {
            asked.answered(*began);
        }
        if response.version() == Version::HTTP_2 {
            this.clients.set.note_multiplexed();
        }
        // RFC 9112, 6.3: with both fields the length is wrong. A client that trusted it would take part of the answer
        // for the whole.
        if response.headers().contains_key(TRANSFER_ENCODING) {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Poll::Ready(Ok(response))
    }
}
