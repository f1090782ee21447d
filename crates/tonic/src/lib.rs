//! The layers of tower-buttress with [tonic]'s channels and servers.
//!
//! The layers treat gRPC as HTTP: gRPC callers get refusals as statuses, [`verdict::Grpc`] reads the status of an
//! answer, and [`DeadlineHeader::grpc`] the deadline of a call. Only the body types need an adapter: tonic's `Channel`
//! accepts only tonic's boxed body, while layers that repeat, time or share requests have their own. [`ChannelLayer`]
//! converts them; put it innermost.
//!
//! # A client
//!
//! ```
//! # fn main() -> Result<(), tonic::transport::Error> {
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! # let _entered = runtime.enter();
//! use tonic::transport::Endpoint;
//! use tonic_health::pb::health_client::HealthClient;
//! use tower::ServiceBuilder;
//! use tower_buttress_tonic::ChannelLayer;
//! use tower_buttress::{TimeoutProfile, presets};
//!
//! let channel = Endpoint::from_static("http://[::1]:50051").connect_lazy();
//! let channel = ServiceBuilder::new()
//!     .layer(presets::grpc_client(TimeoutProfile::STANDARD))
//!     .layer(ChannelLayer::new())
//!     .service(channel);
//! let client = HealthClient::new(channel);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```
//!
//! `Request::set_timeout` limits a call as it does without the layers, stream included: the preset
//! [accepts](tower_buttress::DeadlineLayer::accept) the header and passes on the remaining time. The layers find
//! values that you put into a tonic request's extensions ([`TimeoutProfile`](tower_buttress::TimeoutProfile),
//! [`NoRetry`](tower_buttress::NoRetry)).
//!
//! Calls are `POST`s, so only a call that was certainly not executed is repeated: a failed connection, a refused
//! stream, a status with a pushback. For idempotent calls set
//! [`retry_non_idempotent`](tower_buttress::RetryAfterBackoffLayer::retry_non_idempotent).
//!
//! The limits apply to streams too. A stream that may be silent (a watch, a conversation) needs its own `idle` and
//! `total`, in a [`TimeoutProfile`](tower_buttress::TimeoutProfile) in the extensions of its requests. A longer
//! silence ends it, and counts as a fault of the upstream.
//!
//! Leave `Endpoint::timeout` off: it ends at the head, while
//! [`FirstByteTimeoutLayer`](tower_buttress::FirstByteTimeoutLayer) ends at the first message; and it counts as the
//! caller's own deadline, not as a fault of the upstream. `connect_timeout` belongs to the endpoint.
//!
//! # Interceptors
//!
//! An interceptor next to the channel runs once per attempt, and can add a fresh token to each. To run an interceptor
//! once per call, as with `with_interceptor` of a generated client, put it outside a second [`ChannelLayer`], which
//! restores tonic's body type.
//!
//! ```
//! # fn main() {
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! # let _entered = runtime.enter();
//! use tonic::service::InterceptorLayer;
//! use tonic::transport::Endpoint;
//! use tonic::{Request, Status};
//! use tonic_health::pb::health_client::HealthClient;
//! use tower::ServiceBuilder;
//! use tower_buttress_tonic::ChannelLayer;
//! use tower_buttress::{TimeoutProfile, presets};
//!
//! fn each_call(request: Request<()>) -> Result<Request<()>, Status> {
//!     Ok(request)
//! }
//! fn each_attempt(request: Request<()>) -> Result<Request<()>, Status> {
//!     Ok(request)
//! }
//!
//! let channel = ServiceBuilder::new()
//!     .layer(ChannelLayer::new())
//!     .layer(presets::grpc_client(TimeoutProfile::STANDARD))
//!     .layer(ChannelLayer::new())
//!     .layer(InterceptorLayer::new(each_attempt))
//!     .service(Endpoint::from_static("http://[::1]:50051").connect_lazy());
//! let client = HealthClient::with_interceptor(channel, each_call);
//! # let _ = client;
//! # }
//! ```
//!
//! # A server
//!
//! ```
//! use std::time::Duration;
//! use tonic::transport::Server;
//! use tower_buttress::{DeadlineHeader, DeadlineLayer, GrpcStatusLayer};
//!
//! # let (_reporter, health) = tonic_health::server::health_reporter();
//! let server = Server::builder()
//!     .layer(GrpcStatusLayer::new())
//!     .layer(DeadlineLayer::new(Duration::from_secs(60)).accept(DeadlineHeader::grpc()))
//!     .add_service(health);
//! # let _ = server;
//! ```
//!
//! tonic itself ends a unary call at its `grpc-timeout` with `CANCELLED`, and never ends a stream; the layers end both
//! with `DEADLINE_EXCEEDED`. A client called inside a handler inherits the remaining time. Layers that change the
//! request's body need a [`ChannelLayer`] as the server's last `.layer(..)`, next to the services.
//!
//! [tonic]: https://docs.rs/tonic
//! [`verdict::Grpc`]: tower_buttress::verdict::Grpc
//! [`DeadlineHeader::grpc`]: tower_buttress::DeadlineHeader::grpc

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tonic::TimeoutExpired;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use tower_buttress::error::{self, BoxError};

use tower_buttress::proto::grpc::GRPC_PREVIOUS_RPC_ATTEMPTS;
use tower_buttress::{Attempt, Rejection, RejectionFormat, RejectionKind};

/// Puts a [`ChannelService`] around a `Channel`, or around the services of a server. See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct ChannelLayer {}

/// A `Channel`, or another service of tonic's [`Body`], that accepts requests with any body.
///
/// It also sends the number of earlier attempts (`grpc-previous-rpc-attempts`, gRFC A6), and turns tonic's own
/// [expired timeout](TimeoutExpired), which tonic reports as `CANCELLED`, into a refusal: a `Channel` has a timer for
/// each `grpc-timeout` that it sends.
///
/// # Cancel safety
///
/// Dropping the future or the response's body drops the call, and resets its stream.
///
/// # Errors
///
/// Those of the inner service, except expired timeouts.
///
/// # Cost
///
/// One allocation for a request body that is neither empty nor tonic's own.
#[derive(Clone, Debug)]
pub struct ChannelService<S> {
    inner: S,
}

pin_project! {
    /// The future of [`ChannelService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ChannelFuture<F> {
        #[pin]
        inner: F,
    }
}

// === impl ChannelLayer ===

impl ChannelLayer {
    /// A layer for the innermost place, and for others where tonic requires its own body.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for ChannelLayer {
    type Service = ChannelService<S>;

    fn layer(&self, inner: S) -> ChannelService<S> {
        ChannelService::new(inner)
    }
}

// === impl ChannelService ===

impl<S> ChannelService<S> {
    /// Sends requests to `inner`.
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for ChannelService<S>
where
    S: Service<Request<Body>, Response = Response<ResB>>,
    S::Error: Error + 'static,
    ReqB: http_body::Body<Data = Bytes> + Send + 'static,
    ReqB::Error: Into<BoxError>,
    ResB: http_body::Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ChannelFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let Attempt(attempt) = Attempt::of(&request);
        if attempt > 1 {
            request.headers_mut().insert(GRPC_PREVIOUS_RPC_ATTEMPTS, HeaderValue::from(attempt - 1));
        }
        ChannelFuture { inner: self.inner.call(request.map(Body::new)) }
    }
}

// === impl ChannelFuture ===

impl<F, B, E> Future for ChannelFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Error + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().inner.poll(cx)) {
            Ok(response) => Ok(response.map(Body::new)),
            Err(err) if is_timeout(&err) => Ok(Rejection::new(RejectionKind::DeadlineExceeded)
                .into_response(RejectionFormat::Grpc)
                .map(|_| Body::empty())),
            Err(err) => Err(err),
        })
    }
}

#[cold]
fn is_timeout(err: &(dyn Error + 'static)) -> bool {
    error::find::<TimeoutExpired>(err).is_some()
}
