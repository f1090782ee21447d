use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::Config;
use super::service::DeadlineService;
use crate::event::{Observer, Observers};
use crate::proto::deadline::DeadlineHeader;
use crate::rt::per_thread::PerThread;

/// Gives a call, *its body included*, one total budget, and passes on what is left of it.
///
/// The earliest of these wins, so that a caller may shorten the time and never extend it: this layer's total (or that
/// of a [`TimeoutProfile`](crate::TimeoutProfile) in the request's extensions), a [`Deadline`](crate::Deadline) in the
/// extensions, the [current](crate::Deadline::current) one of the task, and the headers that the layer was told to
/// [accept](Self::accept). The result stands in the extensions of the request that goes on.
///
/// # When to use it, and when not
///
/// On a server, to keep the promise that was made to its caller; in a client, to pass the rest of that promise on.
/// Alone it says nothing about the upstream: a stream that is healthy after 180 s is ended all the same. What tells
/// slow from dead are [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) and
/// [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
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
/// From an axum handler to a client that is called inside it, nothing need be handed over: put one layer on the router
/// and one around the client; the client's reads [`Deadline::current`](crate::Deadline::current), which also says
/// where that does not reach.
///
/// # Place in the stack
///
/// Outside everything that waits, repeats or falls back; only heartbeats go outside it.
///
/// # What happens when
///
/// - *Too little is left to begin*: refused with a 504 (for gRPC callers `DEADLINE_EXCEEDED`); the service inside is
///   not called.
/// - *The deadline passes before the head*: the same, and the inner future is dropped.
/// - *It passes during the body*: the inner body is dropped, and the body fails with
///   [`DeadlineExceeded`](crate::error::DeadlineExceeded). A frame that is ready after the deadline is not handed on,
///   or a fast upstream with a slow reader would never end; the end of the body, its trailers and its errors are.
/// - *The body is not polled*: then it cannot end. Bound the writes of the socket as well, with a [`WriteTimeout`](crate::WriteTimeout).
/// - *The caller drops the future or the body*: so is what is inside. Nothing is left behind.
/// - *An accepted header is malformed, or longer than any clock can count*: it is ignored, with an event.
/// - *Empty bodies* (HEAD, 204, 304) *and upgrades*: the call has a deadline, what is upgraded has none.
///
/// # Cancel safety
///
/// Dropping the future drops the call. Polling the body and going away loses nothing.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or
/// `DeadlineExceeded`.
///
/// # Cost
///
/// Per call one reading of the clock and one entry in the request's extensions; a timer when the call has to wait, or
/// its body is not empty. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    config: Config,
}

// === impl DeadlineLayer ===

impl DeadlineLayer {
    /// Allows `total` for a call and its body. [`Duration::MAX`]: no limit of its own, only those it is told of.
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

    /// Takes what the caller says it has left. Off unless asked for: it is a decision of trust. May be given more than
    /// once; the shortest counts.
    #[must_use]
    pub fn accept(mut self, header: DeadlineHeader) -> Self {
        self.config.accept = Some(with(self.config.accepted(), header));
        self
    }

    /// Writes what is left, less the [reserve](Self::reserve), on the request that goes on, in place of what stood
    /// there. Retries and fallbacks inside write what is left by then. May be given more than once.
    #[must_use]
    pub fn propagate(mut self, header: DeadlineHeader) -> Self {
        self.config.propagate = Some(with(self.config.propagated(), header));
        self
    }

    /// Keeps this much of the time for the way back and for what is to be done with the answer. Default: none.
    #[must_use]
    pub fn reserve(mut self, reserve: Duration) -> Self {
        self.config.reserve = reserve;
        self
    }

    /// With less than this left after the reserve, the call is refused at once. Default: it is refused when nothing is
    /// left, or less than a propagated header can say.
    #[must_use]
    pub fn minimum(mut self, minimum: Duration) -> Self {
        self.config.minimum = minimum;
        self
    }

    /// Tells `observer` of refusals, ended bodies and ignored headers.
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
