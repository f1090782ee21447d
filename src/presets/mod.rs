//! All layers in one, in their order.
//!
//! A preset is a [`ResilienceLayer`]: each of its layers can be adjusted, replaced, or switched off, and keeps its place.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_buttress::{DeadlineHeader, TimeoutProfile, presets};
//!
//! let stack = presets::llm_client(TimeoutProfile::STANDARD)
//!     .deadline(|deadline| deadline.propagate(DeadlineHeader::grpc()))
//!     .retry(|retry| retry.attempts(5));
//!
//! let service = stack.layer(service_fn(|request: Request<_>| async move {
//!     assert!(request.headers().contains_key("grpc-timeout"));
//!     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
//! }));
//! let response = service.oneshot(Request::new(Full::<Bytes>::default())).await.unwrap();
//! assert_eq!(response.status(), 200);
//! # }
//! ```

mod layer;
mod service;
mod stack;
mod upstream;

pub use self::layer::ResilienceLayer;
pub use self::service::{Resilience, ResilienceBody, ResilienceFuture};

use std::time::Duration;

use crate::layers::dedup::DedupLayer;
use crate::layers::first_byte_timeout::FirstByteEvent;
use crate::layers::grpc_status::GrpcStatusLayer;
use crate::layers::idle_body_timeout::IdleActivity;
use crate::layers::inspect_request::InspectRequestLayer;
use crate::layers::retry_after_backoff::RetryAfterBackoffLayer;
use crate::layers::sse_heartbeat::SseHeartbeatLayer;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::verdict;
use crate::proto::deadline::DeadlineHeader;

/// Well below the 60 s after which nginx and AWS load balancers close a silent connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Long enough for a failed first attempt and its retry, and short enough for proxies that wait 30 s for the head
/// (Heroku).
const HEARTBEAT_BEFORE_HEADERS: Duration = Duration::from_secs(25);

/// A stack for calls to a model provider. The idle time is measured by events, not by keep-alive comments, and lost calls
/// are retried even if the provider may bill twice ([`RetryAfterBackoffLayer::llm`]). With the feature `llm`, it finds
/// truncated answers and errors inside a 200 (`StreamGuardLayer`), and continues broken streams if their server has a
/// cursor (`ResumeLayer`).
///
/// It reads the request's body ([`InspectRequestLayer::llm`]): each attempt of a request that does not ask for a stream
/// has the profile's `answer` limit, of all others its `first_byte`. Each model has its own circuit.
#[must_use]
pub fn llm_client(limits: TimeoutProfile) -> ResilienceLayer {
    let stack = ResilienceLayer::new(limits);
    #[cfg(feature = "llm")]
    let stack = stack.guard(|guard| guard.enabled(true)).resume(|resume| resume.enabled(true));
    stack
        .retry(|_| RetryAfterBackoffLayer::llm())
        .idle(|idle| idle.activity(IdleActivity::SseEvents))
        .inspect(|_| InspectRequestLayer::llm())
        .first_byte(|first_byte| first_byte.until(FirstByteEvent::SseEvent).answer(limits.answer))
}

/// A stack for a server between callers and a model provider: [`llm_client`] with heartbeats on silent event streams, an
/// event that reports an error, and one upstream call for duplicate requests.
///
/// If there is no answer after 25 s, the stream begins without it. From then on the caller gets no status and no headers
/// of the answer: an error, or a refusal of any layer, is an event of the stream. See
/// [`before_headers`](SseHeartbeatLayer::before_headers) for the requests to which this applies. To always send the
/// upstream's status: `.heartbeat(|heartbeat| heartbeat.before_headers(Duration::MAX))`.
#[must_use]
pub fn llm_gateway(limits: TimeoutProfile) -> ResilienceLayer {
    let heartbeat = SseHeartbeatLayer::new(HEARTBEAT).error_events(true).before_headers(HEARTBEAT_BEFORE_HEADERS);
    llm_client(limits).heartbeat(|_| heartbeat).dedup(|_| DedupLayer::new())
}

/// A stack for calls to any other HTTP service: it does not repeat requests that may have been executed, unless they are
/// idempotent. Every attempt has the profile's `first_byte`; its `answer` is not used.
#[must_use]
pub fn http_client(limits: TimeoutProfile) -> ResilienceLayer {
    ResilienceLayer::new(limits)
}

/// A stack for gRPC: it judges answers by `grpc-status`, the deadline travels in `grpc-timeout` (which may also shorten
/// it), and a stream that reaches a limit ends with a status.
#[must_use]
pub fn grpc_client(limits: TimeoutProfile) -> ResilienceLayer {
    ResilienceLayer::new(limits)
        .deadline(|deadline| deadline.accept(DeadlineHeader::grpc()).propagate(DeadlineHeader::grpc()))
        .grpc_status(|_| GrpcStatusLayer::new())
        .classifier(verdict::Grpc::new())
}
