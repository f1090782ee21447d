use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Config, FirstByteEvent};
use super::service::FirstByteTimeout;
use crate::event::{Observer, Observers};

/// Refuses, with a 504, to wait any longer for an upstream's first data.
///
/// The time runs from the moment the upstream took the last of the request body (a slow upload is not its fault) to
/// the first *data* of the response, not merely its head: many servers send `200` at once and then think. Until then
/// the response is withheld, so that a late first byte is still a status, which retries and fallbacks can act on, and
/// a body that fails before its first data becomes a 502.
///
/// # When to use it, and when not
///
/// Around upstreams that can be silent for long and then stream. It bounds the wait before the stream, never the
/// stream: that is [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer). For one bound on everything use
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
/// Innermost, per attempt: inside retries, and inside `IdleBodyTimeoutLayer`, which begins where this one ends.
///
/// # What happens when
///
/// - *The limit is hit*: the inner future or body is dropped, which closes or resets the upstream's stream; the answer
///   is a 504 that carries a [`Rejection`](crate::Rejection) (for gRPC callers `DEADLINE_EXCEEDED`).
/// - *The body fails before its first data*: a 502, [`BodyFailed`](crate::RejectionKind::BodyFailed).
/// - *The caller drops the future*: so is what is inside. Nothing is left behind.
/// - *HEAD, CONNECT, 101, 204, 205, 304, or a body that is empty*: handed on at the head. Upgrades work.
/// - *A status from 400 on*: handed on at the head too, since it can be acted on as it is, with the `Retry-After` it has.
/// - *Trailers before any data*: handed on; there will be no data.
/// - *The request carries a [`TimeoutProfile`](crate::TimeoutProfile)*: its `first_byte` counts, not the layer's limit. Its
///   `answer` counts where the layer has a limit for [answers](Self::answer), as the presets for models have; a layer made
///   by hand has none unless it is told, and holds every answer to its one limit.
/// - *The upstream stops reading the upload*: the time runs since it last read. While the upload itself has nothing to
///   give, no time runs; a head that is there by then is handed on, since it may be what the sender waits for (a stream
///   that goes both ways).
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
/// A request with a body: one allocation and two readings of the clock; one without: one reading. A timer only if the
/// call has to wait. After the first byte, a frame costs two comparisons. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct FirstByteTimeoutLayer {
    config: Config,
}

// === impl FirstByteTimeoutLayer ===

impl FirstByteTimeoutLayer {
    /// Waits for at most `limit`. 20 s suits chat, 90 s models that think.
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

    /// Waits for at most `limit` for the first data of answers that are no streams, which come whole when the model has
    /// finished. Default: as long as for a stream.
    ///
    /// A request asks for a stream if it carries [`ExpectsEventStream`](crate::ExpectsEventStream), if its `Accept` names
    /// `text/event-stream`, or if its path ends in `:streamGenerateContent` or `:streamRawPredict`. Most clients of models
    /// say it in the body alone: set this where a layer outside reads that, as [`InspectRequestLayer::llm`] does, or streams
    /// have this limit too. Should an answer be a `text/event-stream` though nothing had asked for it, its first event must
    /// come within the layer's own limit of its head.
    ///
    /// [`InspectRequestLayer::llm`]: crate::InspectRequestLayer::llm
    #[must_use]
    pub fn answer(mut self, limit: Duration) -> Self {
        self.config.answer = Some(limit);
        self
    }

    /// What ends the wait. Default: [`FirstByteEvent::Data`].
    #[must_use]
    pub fn until(mut self, until: FirstByteEvent) -> Self {
        self.config.until = until;
        self
    }

    /// Tells `observer` of every refusal.
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
