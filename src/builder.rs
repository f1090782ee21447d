use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use tower::ServiceBuilder;
use tower_layer::Stack;

use crate::layers::any_error::AnyErrorLayer;
use crate::layers::circuit_breaker::CircuitBreakerLayer;
use crate::layers::deadline::DeadlineLayer;
use crate::layers::dedup::DedupLayer;
use crate::layers::fallback::FallbackLayer;
use crate::layers::first_byte_timeout::FirstByteTimeoutLayer;
use crate::layers::grpc_status::GrpcStatusLayer;
use crate::layers::idle_body_timeout::IdleBodyTimeoutLayer;
use crate::layers::inspect_request::InspectRequestLayer;
use crate::layers::pace::PaceLayer;
use crate::layers::queue::QueueLayer;
use crate::layers::rejections_as_errors::RejectionsAsErrorsLayer;
use crate::layers::retry_after_backoff::RetryAfterBackoffLayer;
use crate::layers::sse_heartbeat::SseHeartbeatLayer;
use crate::layers::supersede::SupersedeLayer;
use crate::layers::timeout_profile::TimeoutProfileLayer;
use crate::policy::timeout_profile::TimeoutProfile;

/// Adds the layers of this crate to a [`ServiceBuilder`] by name, each with its defaults.
///
/// For other settings use [`ServiceBuilder::layer`]. For all layers in their order take one of the
/// [`presets`](crate::presets).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{CallBody, ServiceBuilderExt};
///
/// let service = ServiceBuilder::new()
///     .deadline(Duration::from_secs(90))
///     .retry_after_backoff()
///     .circuit_breaker()
///     .idle_body_timeout(Duration::from_secs(15))
///     .first_byte_timeout(Duration::from_secs(20))
///     .service(service_fn(|_: Request<_>| async {
///         Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
///     }));
///
/// let response = service.oneshot(Request::new(Full::<Bytes>::default())).await.unwrap();
/// assert_eq!(response.status(), 200);
/// # }
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed<L> + Sized {
    /// Turns refusals of the layers inside into errors. See [`RejectionsAsErrorsLayer`].
    fn rejections_as_errors(self) -> ServiceBuilder<Stack<RejectionsAsErrorsLayer, L>>;

    /// Ends a gRPC stream that reaches a limit with a status. See [`GrpcStatusLayer`].
    fn grpc_status(self) -> ServiceBuilder<Stack<GrpcStatusLayer, L>>;

    /// Chooses the time limits of each request. See [`TimeoutProfileLayer`].
    fn timeout_profile<F>(self, choose: F) -> ServiceBuilder<Stack<TimeoutProfileLayer, L>>
    where
        F: Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync + 'static;

    /// Shows the body of each JSON request to `inspect`, before it is sent. See [`InspectRequestLayer`].
    fn inspect_request<F>(self, inspect: F) -> ServiceBuilder<Stack<InspectRequestLayer, L>>
    where
        F: Fn(&mut Parts, &Bytes) + Send + Sync + 'static;

    /// Keeps silent event streams alive. See [`SseHeartbeatLayer`].
    fn sse_heartbeat(self, interval: Duration) -> ServiceBuilder<Stack<SseHeartbeatLayer, L>>;

    /// Bounds the whole call and its body. See [`DeadlineLayer`].
    fn deadline(self, total: Duration) -> ServiceBuilder<Stack<DeadlineLayer, L>>;

    /// Ends the older messages of the conversation that `header` names, when a newer one comes. See [`SupersedeLayer`].
    fn supersede(self, header: HeaderName) -> ServiceBuilder<Stack<SupersedeLayer, L>>;

    /// Makes one upstream call for duplicate requests. See [`DedupLayer`].
    fn dedup(self) -> ServiceBuilder<Stack<DedupLayer, L>>;

    /// Asks `backup` when the service inside fails. See [`FallbackLayer`].
    fn fallback<B>(self, backup: B) -> ServiceBuilder<Stack<FallbackLayer<B>, L>>;

    /// Retries failed attempts, after the wait that the upstream asked for. See [`RetryAfterBackoffLayer`].
    fn retry_after_backoff(self) -> ServiceBuilder<Stack<RetryAfterBackoffLayer, L>>;

    /// Limits the calls in flight; the others wait. See [`QueueLayer`].
    fn queue(self, limit: u32) -> ServiceBuilder<Stack<QueueLayer, L>>;

    /// Makes calls wait after the upstream answered 429. See [`PaceLayer`].
    fn pace(self) -> ServiceBuilder<Stack<PaceLayer, L>>;

    /// Refuses calls at once while the upstream is failing. See [`CircuitBreakerLayer`].
    fn circuit_breaker(self) -> ServiceBuilder<Stack<CircuitBreakerLayer, L>>;

    /// Bounds the longest silence of the response body. See [`IdleBodyTimeoutLayer`].
    fn idle_body_timeout(self, limit: Duration) -> ServiceBuilder<Stack<IdleBodyTimeoutLayer, L>>;

    /// Bounds the wait for the first data of the response. See [`FirstByteTimeoutLayer`].
    fn first_byte_timeout(self, limit: Duration) -> ServiceBuilder<Stack<FirstByteTimeoutLayer, L>>;

    /// Wraps the error of the service inside so that the layers outside can judge it. See [`AnyErrorLayer`].
    fn any_error(self) -> ServiceBuilder<Stack<AnyErrorLayer, L>>;
}

mod sealed {
    pub trait Sealed<L> {}
    impl<L> Sealed<L> for tower::ServiceBuilder<L> {}
}

// === impl ServiceBuilder ===

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    fn rejections_as_errors(self) -> ServiceBuilder<Stack<RejectionsAsErrorsLayer, L>> {
        self.layer(RejectionsAsErrorsLayer::new())
    }

    fn grpc_status(self) -> ServiceBuilder<Stack<GrpcStatusLayer, L>> {
        self.layer(GrpcStatusLayer::new())
    }

    fn timeout_profile<F>(self, choose: F) -> ServiceBuilder<Stack<TimeoutProfileLayer, L>>
    where
        F: Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync + 'static,
    {
        self.layer(TimeoutProfileLayer::new(choose))
    }

    fn inspect_request<F>(self, inspect: F) -> ServiceBuilder<Stack<InspectRequestLayer, L>>
    where
        F: Fn(&mut Parts, &Bytes) + Send + Sync + 'static,
    {
        self.layer(InspectRequestLayer::new(inspect))
    }

    fn sse_heartbeat(self, interval: Duration) -> ServiceBuilder<Stack<SseHeartbeatLayer, L>> {
        self.layer(SseHeartbeatLayer::new(interval))
    }

    fn deadline(self, total: Duration) -> ServiceBuilder<Stack<DeadlineLayer, L>> {
        self.layer(DeadlineLayer::new(total))
    }

    fn supersede(self, header: HeaderName) -> ServiceBuilder<Stack<SupersedeLayer, L>> {
        self.layer(SupersedeLayer::by_header(header))
    }

    fn dedup(self) -> ServiceBuilder<Stack<DedupLayer, L>> {
        self.layer(DedupLayer::new())
    }

    fn fallback<B>(self, backup: B) -> ServiceBuilder<Stack<FallbackLayer<B>, L>> {
        self.layer(FallbackLayer::new(backup))
    }

    fn retry_after_backoff(self) -> ServiceBuilder<Stack<RetryAfterBackoffLayer, L>> {
        self.layer(RetryAfterBackoffLayer::new())
    }

    fn queue(self, limit: u32) -> ServiceBuilder<Stack<QueueLayer, L>> {
        self.layer(QueueLayer::new(limit))
    }

    fn pace(self) -> ServiceBuilder<Stack<PaceLayer, L>> {
        self.layer(PaceLayer::new())
    }

    fn circuit_breaker(self) -> ServiceBuilder<Stack<CircuitBreakerLayer, L>> {
        self.layer(CircuitBreakerLayer::new())
    }

    fn idle_body_timeout(self, limit: Duration) -> ServiceBuilder<Stack<IdleBodyTimeoutLayer, L>> {
        self.layer(IdleBodyTimeoutLayer::new(limit))
    }

    fn first_byte_timeout(self, limit: Duration) -> ServiceBuilder<Stack<FirstByteTimeoutLayer, L>> {
        self.layer(FirstByteTimeoutLayer::new(limit))
    }

    fn any_error(self) -> ServiceBuilder<Stack<AnyErrorLayer, L>> {
        self.layer(AnyErrorLayer::new())
    }
}
