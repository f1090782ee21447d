use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Config, FirstByteEvent};
use super::service::FirstByteTimeout;
use crate::event::{Observer, Observers};

/// Refuses with a 504 when the upstream's first data takes too long.
///
/// The time runs from the moment when the upstream took the last of the request body (a slow upload is not its fault) to
/// the first *data* of the response, not only its head: many servers send `200` at once and then think. The layer
/// withholds the response until then. A late first byte is therefore still a status, which retries and fallbacks can act
/// on, and a body that fails before its first data becomes a 502.
///
/// # When to use it, and when not
///
/// Around upstreams that can be silent for long and then stream. The layer bounds the wait before the stream; for the
/// stream itself use [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer), for one bound on everything
/// [`DeadlineLayer`](crate::DeadlineLayer).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{Empty, channel::Channel};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{FirstByteTimeoutLayer, Rejection, RejectionKind};
///
/// // An upstream that answers 200 at once, and then thinks for a minute.
/// let upstream = service_fn(|_request| async {
///     let (mut sender, body) = Channel::<Bytes>::new(1);
///     tokio::spawn(async move {
///         tokio::time::sleep(Duration::from_secs(60)).await;
///         sender.send_data("hello".into()).await
///     });
///     Ok::<_, std::convert::Infallible>(Response::new(body))
/// });
///
/// let service = ServiceBuilder::new()
///     .layer(FirstByteTimeoutLayer::new(Duration::from_secs(20)))
///     .service(upstream);
///
/// let response = service.oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap();
/// assert_eq!(response.status(), 504);
/// assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::FirstByteTimeout);
/// # }
/// ```
///
/// # Place in the stack
///
/// Innermost, per attempt: inside retries, and inside `IdleBodyTimeoutLayer`, which starts where this layer ends.
///
/// # What happens when
///
/// - *The limit is reached*: the layer drops the inner future or body, which closes or resets the upstream's stream. The
///   answer is a 504 that carries a [`Rejection`](crate::Rejection) (for gRPC callers `DEADLINE_EXCEEDED`).
/// - *The body fails before its first data*: a 502, [`BodyFailed`](crate::RejectionKind::BodyFailed).
/// - *The caller drops the future*: the layer drops the inner one.
/// - *HEAD, CONNECT, 101, 204, 205, 304, or an empty body*: the layer forwards the response at the head. Upgrades work.
/// - *A status from 400 on*: the same; retries and fallbacks can act on it, with its `Retry-After`.
/// - *Trailers before any data*: the layer forwards the response; no data will follow.
/// - *The request carries a [`TimeoutProfile`](crate::TimeoutProfile)*: its `first_byte` replaces the layer's limit. Its
///   `answer` replaces the layer's limit for [answers](Self::answer) if there is one, as in the presets for models. A
///   layer built by hand has none by default, and applies its one limit to every answer.
/// - *The upstream stops reading the upload*: the time runs from its last read. While the caller's upload has no data
///   ready, no time runs, and the layer forwards a head that arrives then: the sender may be waiting for it (a stream in
///   both directions).
///
/// # Cancel safety
///
/// Dropping the future drops the call.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// A request with a body: one allocation and two clock reads; without a body: one clock read. A timer only if the call
/// has to wait. After the first byte, a frame costs two comparisons. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct FirstByteTimeoutLayer {
    config: Config,
}

// === impl FirstByteTimeoutLayer ===

impl FirstByteTimeoutLayer {
    /// Waits at most `limit`. 20 s suits chat, 90 s models that think.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let (until, observers) = (FirstByteEvent::default(), Observers::default());
        Self { config: Config { enabled: true, limit, answer: None, until, observers } }
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

    /// Waits at most `limit` for the first data of answers that do not stream: they arrive whole when the model has
    /// finished. Default: as long as for a stream.
    ///
    /// A request asks for a stream if it carries [`ExpectsEventStream`](crate::ExpectsEventStream), if its `Accept` names
    /// `text/event-stream`, or if its path ends in `:streamGenerateContent` or `:streamRawPredict`. Most clients of
    /// models ask for it only in the body: set this limit only if a layer outside reads the body, as
    /// [`InspectRequestLayer::llm`] does, or streams get this limit too. If an answer is a `text/event-stream` though the
    /// request did not ask for one, its first event must come within the layer's own limit after its head.
    ///
    /// [`InspectRequestLayer::llm`]: crate::InspectRequestLayer::llm
    #[must_use]
    pub fn answer(mut self, limit: Duration) -> Self {
        self.config.answer = Some(limit);
        self
    }

    /// Sets the event that ends the wait. Default: [`FirstByteEvent::Data`].
    #[must_use]
    pub fn until(mut self, until: FirstByteEvent) -> Self {
        self.config.until = until;
        self
    }

    /// Reports every refusal to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.observers = Observers::to(observer);
        self
    }
}

impl<S> Layer<S> for FirstByteTimeoutLayer {
    type Service = FirstByteTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FirstByteTimeout::new(inner, self.config.clone())
    }
}
