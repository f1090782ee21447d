use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Chosen, Config, MissingEnd, Reasons};
use super::service::StreamGuard;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::NextStep;
use crate::proto::dialect::{Dialect, Kind};

/// Finds truncated streams, and errors inside a 200, in the answers of LLM APIs.
///
/// # When to use it, and when not
///
/// Around every upstream that is an LLM API. Clients take a truncated stream for a complete answer, and retries, breakers
/// and caches see the 200. This layer reads the answers (see [`proto::dialect`](crate::proto::dialect)) and turns a fault
/// into a refusal, as long as nothing was forwarded, or into an error of the body. It does nothing for other services: it
/// judges only event streams of a known dialect, and answers to a `POST` to a known generation path.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_buttress::{Rejection, RejectionKind, StreamGuardLayer};
///
/// // An upstream that fails behind its 200.
/// let upstream = service_fn(|_request| async {
///     let event = "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":null}}\n\n";
///     let response = Response::builder().header("content-type", "text/event-stream");
///     Ok::<_, std::convert::Infallible>(response.body(Full::<Bytes>::from(event)).unwrap())
/// });
/// let service = StreamGuardLayer::new().layer(upstream);
///
/// let request = Request::post("/v1/chat/completions").body(()).unwrap();
/// let response = service.oneshot(request).await.unwrap();
/// assert_eq!(response.status(), 529);
/// assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::UpstreamFailed);
/// let body = response.into_body().collect().await.unwrap().to_bytes();
/// assert!(body.starts_with(b"{\"error\":{\"message\":\"Overloaded\""), "the upstream's own words");
/// # }
/// ```
///
/// # Place in the stack
///
/// Per attempt: inside fallback, retries and the circuit breaker, which act on its results, and outside
/// [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer) and [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer).
///
/// # What happens when
///
/// *Before the first content* (a text, a thought, a tool call) the layer withholds the head of a stream: for at most 64
/// events or 256 KiB, and at most 2 s after an event that starts the answer, so the reader of a model that thinks for
/// long gets the answer's id.
///
/// - *An error event, the end, or data that is not JSON comes first*: a refusal of the kind
///   [`UpstreamFailed`](crate::RejectionKind::UpstreamFailed) with the status that matches the error (else 502),
///   `Retry-After` if the upstream names a wait, and the upstream's own JSON as its body. The refusal's
///   [source](std::error::Error::source) is an [`UpstreamError`](crate::error::UpstreamError) or a
///   [`StreamTruncated`](crate::error::StreamTruncated).
/// - *The body fails*: a 502, [`BodyFailed`](crate::RejectionKind::BodyFailed).
/// - *No content comes for [`first_content`](Self::first_content)*: a 504 as from a
///   [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer); if the head was forwarded, the body ends with
///   [`FirstContentElapsed`](crate::error::FirstContentElapsed).
///
/// *After it* bytes pass unchanged, one complete event at a time (an event above 64 KiB in pieces). The layer removes
/// `Content-Length`: after that many bytes the caller would not read an error event.
///
/// - *An error event comes*: the body ends with an [`UpstreamError`](crate::error::UpstreamError) that carries it. The
///   layer forwards nothing after it.
/// - *The stream ends before the model has said how its answer ended, or inside an event*: the body ends with
///   [`StreamTruncated`](crate::error::StreamTruncated). See [`missing_end`](Self::missing_end). The layer does not
///   forward a closing marker (`[DONE]`) before that error, since clients stop reading there.
/// - *The upstream stays silent for 1 s after the last event of its dialect*, at a path of a known dialect: the body ends, as if
///   the upstream had ended it.
/// - *The model reports that it stopped at a limit, was filtered or refused*: the answer passes.
///   [`Ending`](crate::Ending), in the response's extensions, says which.
///
/// *Answers that are no stream*, JSON to a `POST` to a path of a known dialect, are withheld up to 256 KiB. Truncated
/// JSON, or an error inside a 200, becomes a refusal as above. A larger answer is forwarded as it arrives, and a fault
/// ends its body with an error. If its length is known, it stays known, and the layer judges the answer before it
/// forwards the last frame.
///
/// *4xx and 5xx* are read, up to 64 KiB of JSON and for 1 s, so that the layers outside see a spent quota, a prompt that
/// is too long, or a wait that only the body names. They pass unchanged, with an
/// [`UpstreamError`](crate::error::UpstreamError) in their extensions.
///
/// - *The answer is compressed* although `Accept-Encoding: identity` was sent upstream (for every answer that this layer
///   reads: to a `POST` to a path of a known dialect, and to requests that accept an event stream), *or a binary event
///   stream*: it passes unread, with an [`Event::Bypassed`](crate::Event::Bypassed).
/// - *The [memory](Self::memory) is spent*: the layer forwards the withheld part unjudged, with an
///   [`Event::Bypassed`](crate::Event::Bypassed), and guards the rest as it arrives. With [`hold`](Self::hold) it refuses
///   the stream with a 502, since it may forward only complete answers.
/// - *An event stream has no known dialect*: it passes; it fails only if it ends inside an event. The same holds at the
///   path of a dialect, for example for llama.cpp's own `/completions` or a front end's `/api/chat`: if the first event
///   is JSON of another form, the layer releases the stream, and the first-content limit does not apply. If events of a dialect
///   follow (within 64 events, at another path within 4), the end of its answer counts again. [`hold`](Self::hold)
///   withholds such a stream to its end too. [`dialect`](Self::dialect) fixes the dialect.
/// - *An event is too large to read*, above 1 MiB even without its long strings (such as an image): it may contain the
///   end of the answer. If no more content follows, the answer passes with the end
///   [`Unknown`](crate::proto::dialect::End::Unknown), with which no layer stores an event stream; with
///   [`MissingEnd::Error`] it fails.
/// - *The rest of an answer*, which a [`ResumeLayer`](crate::ResumeLayer) outside asks for: nothing of it is withheld.
/// - *A `HEAD`, another path, another method*: untouched, except for event streams.
/// - *The caller drops the future or the body*: the layer drops the inner one.
///
/// # Cancel safety
///
/// Dropping the future drops the call.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or one of
/// those above.
///
/// # Cost
///
/// The layer compares an event that contains only a piece of text with an earlier event, without parsing its JSON or
/// allocating. A stream costs about 1 KiB.
#[derive(Clone, Debug)]
pub struct StreamGuardLayer {
    config: Config,
}

/// A model may think for a minute before its first word.
const FIRST_CONTENT: Duration = Duration::from_secs(90);

// === impl StreamGuardLayer ===

impl StreamGuardLayer {
    /// Returns a layer that finds the dialect by the request's path, and else by the first events.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Config {
                enabled: true,
                dialect: None,
                missing_end: MissingEnd::default(),
                hold: None,
                first_content: Some(FIRST_CONTENT),
                filtered: NextStep::GiveUp,
                error_frames: false,
                reasons: Arc::<Reasons>::default(),
                memory: Memory::default(),
                emitter: Emitter::default(),
            },
        }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new().enabled(false)
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

    /// Fixes the dialect of all answers, whatever their path and their first events. For upstreams with paths of their
    /// own.
    #[must_use]
    pub fn dialect(mut self, kind: Kind) -> Self {
        self.config.dialect = Some(Chosen::Known(kind));
        self
    }

    /// Reads all answers in a dialect that this crate does not know. The layer calls `make` for each answer.
    ///
    /// See [`Dialect`] for how to write one.
    #[must_use]
    pub fn custom_dialect<D: Dialect + 'static>(mut self, make: impl Fn() -> D + Send + Sync + 'static) -> Self {
        self.config.dialect = Some(Chosen::Custom(Arc::new(move || Box::new(make()))));
        self
    }

    /// Sets what happens to a stream without a reason for its end. Default: [`MissingEnd::Auto`].
    #[must_use]
    pub fn missing_end(mut self, missing_end: MissingEnd) -> Self {
        self.config.missing_end = missing_end;
        self
    }

    /// Forwards only complete answers: the layer withholds an answer to its end, so that any fault can still be retried.
    /// It refuses an answer that is larger than `max_bytes` (and, if it is no stream, than 256 KiB) with a 502. A stream
    /// of another API at the path of a dialect is withheld too, and is complete if it ends after an event. Answers that
    /// the layer does not guard are not held: to another method than `POST`, the rest of an answer that a
    /// [`ResumeLayer`](crate::ResumeLayer) asks for, and a stream at a path of no dialect (see
    /// [`dialect`](Self::dialect)). Default: off.
    #[must_use]
    pub fn hold(mut self, max_bytes: usize) -> Self {
        self.config.hold = Some(max_bytes);
        self
    }

    /// The longest time from the head to the first content of a stream, regardless of keep-alives; `None`: no limit.
    /// Default: 90 s. A longer `first_byte` in the request's [`TimeoutProfile`](crate::TimeoutProfile) replaces it.
    #[must_use]
    pub fn first_content(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.config.first_content = limit.into();
        self
    }

    /// The next step after a request that violated the upstream's content policy. Default: [`NextStep::GiveUp`]. With
    /// [`NextStep::TryAnother`], a fallback asks a backup for the answer that the upstream refused.
    #[must_use]
    pub fn filtered(mut self, next: NextStep) -> Self {
        self.config.filtered = next;
        self
    }

    /// Writes the event that reports an error to the caller before the body ends with the error. Default: off, since a
    /// layer outside may still recover, and [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) writes the event otherwise.
    /// Turn it on if this layer is the outermost before a caller.
    #[must_use]
    pub fn error_events(mut self, write: bool) -> Self {
        self.config.error_frames = write;
        self
    }

    /// The memory that counts the withheld data of all calls together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Reports refusals, failed streams, and answers that the layer cannot read to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.emitter = Emitter::to(observer);
        self
    }
}

impl Default for StreamGuardLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for StreamGuardLayer {
    type Service = StreamGuard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        StreamGuard::new(inner, Arc::new(self.config.clone()))
    }
}
