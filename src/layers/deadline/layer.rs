use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::Config;
use super::service::DeadlineService;
use crate::event::{Observer, Observers};
use crate::proto::deadline::DeadlineHeader;
use crate::rt::per_thread::PerThread;

/// Bounds a call, *its body included*, by one total budget, and passes the remaining time on.
///
/// The earliest of these deadlines applies, so a caller may shorten the time and never extend it: this layer's total (or
/// that of a [`TimeoutProfile`](crate::TimeoutProfile) in the request's extensions), a [`Deadline`](crate::Deadline) in
/// the extensions, the [current](crate::Deadline::current) one of the task, and the headers that the layer
/// [accepts](Self::accept). The layer puts the result into the extensions of the request.
///
/// # When to use it, and when not
///
/// On a server, to answer its caller in time; in a client, to pass the remaining time on. The layer cannot tell a slow
/// upstream from a dead one: it ends a healthy stream too. For that use
/// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) and [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{DeadlineHeader, DeadlineLayer};
///
/// let upstream = service_fn(|request: Request<()>| async move {
///     // What the caller allows, less what the way back takes.
///     assert_eq!(request.headers()["grpc-timeout"], "1950000u");
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
/// });
///
/// let service = ServiceBuilder::new()
///     .layer(
///         DeadlineLayer::new(Duration::from_secs(180))
///             .accept(DeadlineHeader::envoy())
///             .propagate(DeadlineHeader::grpc())
///             .reserve(Duration::from_millis(50)),
///     )
///     .service(upstream);
///
/// let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", "2000").body(()).unwrap();
/// assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
/// # }
/// ```
///
/// To pass the deadline from an axum handler to a client inside it, put one layer on the router and one around the
/// client. The client's layer reads [`Deadline::current`](crate::Deadline::current), whose page lists where it is not
/// set.
///
/// # Place in the stack
///
/// Outside all layers that wait, retry or fall back; only heartbeats go outside it.
///
/// # What happens when
///
/// - *Too little time is left to start*: the layer refuses with a 504 (for gRPC callers `DEADLINE_EXCEEDED`) and does not
///   call the service inside.
/// - *The deadline passes before the head*: the same, and the layer drops the inner future.
/// - *It passes during the body*: the layer drops the inner body, and the body fails with
///   [`DeadlineExceeded`](crate::error::DeadlineExceeded). The layer does not forward a frame that is ready after the
///   deadline, or a fast upstream with a slow reader would never end. It does forward the end of the body, its trailers
///   and its errors.
/// - *The body is not polled*: it cannot end. Bound the writes of the socket too, with a
///   [`WriteTimeout`](crate::WriteTimeout).
/// - *The caller drops the future or the body*: the layer drops the inner one.
/// - *An accepted header is malformed, or too long for a clock*: the layer ignores it, with an event.
/// - *Empty bodies* (HEAD, 204, 304) *and upgrades*: the call has a deadline, the upgraded connection has none.
///
/// # Cancel safety
///
/// Dropping the future drops the call. Dropping a poll of the body loses nothing.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or
/// `DeadlineExceeded`.
///
/// # Cost
///
/// Per call one clock read and one entry in the request's extensions; a timer if the call has to wait, or its body is not
/// empty. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    config: Config,
}

// === impl DeadlineLayer ===

impl DeadlineLayer {
    /// Allows `total` for a call and its body. [`Duration::MAX`]: no limit of its own.
    #[must_use]
    pub fn new(total: Duration) -> Self {
        Self {
            config: Config {
                enabled: true,
                total,
                accept: None,
                propagate: None,
                reserve: Duration::ZERO,
                minimum: Duration::ZERO,
                observers: Observers::default(),
            },
        }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new(Duration::MAX).enabled(false)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Switches the layer on or off; its settings are kept. Default: on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Accepts a deadline from this header of the caller. Default: none, since the layer then trusts the caller. May be
    /// called more than once; the earliest deadline applies.
    #[must_use]
    pub fn accept(mut self, header: DeadlineHeader) -> Self {
        self.config.accept = Some(with(self.config.accepted(), header));
        self
    }

    /// Writes the remaining time, less the [reserve](Self::reserve), into this header of the request, and replaces its
    /// value. Retries and fallbacks inside write the time that remains for them. May be called more than once.
    #[must_use]
    pub fn propagate(mut self, header: DeadlineHeader) -> Self {
        self.config.propagate = Some(with(self.config.propagated(), header));
        self
    }

    /// Keeps this much of the time for the way back and for processing the answer. Default: none.
    #[must_use]
    pub fn reserve(mut self, reserve: Duration) -> Self {
        self.config.reserve = reserve;
        self
    }

    /// Refuses a call at once with less than `minimum` left after the reserve. Default: refuses when no time is left, or
    /// less than a propagated header can express.
    #[must_use]
    pub fn minimum(mut self, minimum: Duration) -> Self {
        self.config.minimum = minimum;
        self
    }

    /// Reports refusals, ended bodies and ignored headers to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.observers = Observers::to(observer);
        self
    }
}

fn with(headers: &[DeadlineHeader], header: DeadlineHeader) -> PerThread<[DeadlineHeader]> {
    PerThread::new(headers.iter().cloned().chain([header]).collect())
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService::new(inner, self.config.for_service())
    }
}
