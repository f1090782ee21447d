use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Chosen, Config, MissingEnd, Reasons};
use super::service::StreamGuard;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::NextStep;
use crate::proto::dialect::{Dialect, Kind};

/// Finds answers of LLM APIs that are not what they seem to be: streams that end early and cleanly, and errors inside of a 200.
///
/// # When to use it, and when not
///
/// Around every upstream that is an LLM API. Clients take a stream that ends early but cleanly for a whole answer, and retries,
/// breakers and caches see the 200. This layer reads the answers (see [`proto::dialect`](crate::proto::dialect)) and makes of
/// what is wrong with them either a refusal, as long as nothing was handed on, or an error of the body. It does nothing for other
/// services: only event streams of a known dialect, and answers to a `POST` to a path that is known for generating, are judged.
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
/// Per attempt: inside of fallback, retries and the circuit breaker, which act on what it finds, and outside of
/// [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer) and [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer).
///
/// # What happens when
///
/// *Before the first content* (a text, a thought, a call of a tool) the head of a stream is withheld: until that content, for
/// at most 64 events or 256 KiB, and for at most 2 s after an event that says that the answer has begun, so that a reader of a
/// model that thinks for long has the answer's id.
///
/// - *An error event, a clean end, or garbage comes first*: a refusal of the kind
///   [`UpstreamFailed`](crate::RejectionKind::UpstreamFailed) with the status that the error would have had (502 where it has
///   none), `Retry-After` where the upstream says when, and the upstream's own JSON as its body. The refusal's
///   [source](std::error::Error::source) is an [`UpstreamError`](crate::error::UpstreamError) or a
///   [`StreamTruncated`](crate::error::StreamTruncated).
/// - *The body fails*: a 502, [`BodyFailed`](crate::RejectionKind::BodyFailed).
/// - *No content comes for [`first_content`](Self::first_content)*: a 504 as from a
///   [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer); where the head has gone out, the body ends with
///   [`FirstContentElapsed`](crate::error::FirstContentElapsed).
///
/// *Behind it* bytes pass unchanged, whole events at a time (one above 64 KiB as it comes). A `Content-Length` does not: a server
/// that has sent as many bytes could tell its client of no error behind them.
///
/// - *An error event comes*: the body ends with an [`UpstreamError`](crate::error::UpstreamError) that carries it. Nothing behind
///   it is handed on.
/// - *The stream ends, and the model has not said how its answer ended, or inside of an event*: the body ends with
///   [`StreamTruncated`](crate::error::StreamTruncated). See [`missing_end`](Self::missing_end). A closing marker (`[DONE]`) that
///   comes before is not handed on, since clients read no further than that.
/// - *The model says that it ended at a limit, was filtered or refused*: that is the truth, and passes. [`Ending`](crate::Ending),
///   in the response's extensions, tells.
///
/// *Answers that are no stream*, JSON to a `POST` to a path of a known dialect, are withheld up to 256 KiB. One that is cut, or
/// that is an error inside of a 200, becomes a refusal as above. A larger one is handed on as it comes; where its length is
/// known, it keeps it, and it is judged before the frame that completes it is handed on. What is wrong with it ends its body.
///
/// *4xx and 5xx* are read, up to 64 KiB of JSON and for 1 s, so that the layers outside act on a quota that is spent, a prompt that is
/// too long, or a wait that only the body names. They are handed on as they are, with an
/// [`UpstreamError`](crate::error::UpstreamError) in their extensions.
///
/// - *The answer is compressed* although `Accept-Encoding: identity` was sent upstream (with all that this layer reads: a `POST` to a
///   path of a known dialect, and what accepts an event stream), *or a binary event stream*: it passes unread, with an
///   [`Event::Bypassed`](crate::Event::Bypassed).
/// - *The [memory](Self::memory) is spent*: what was withheld is handed on before it is known what it is, with an
///   [`Event::Bypassed`](crate::Event::Bypassed), and the rest is guarded as it comes. With [`hold`](Self::hold) the stream is
///   refused with a 502, since it may hand on whole answers only.
/// - *An event stream is of no known dialect*: it passes; only one that ends inside of an event fails. That is so at the path of a
///   dialect too, as of llama.cpp's own `/completions` or a front end's `/api/chat`: the first event that is JSON of another form
///   lets the stream go, and no limit holds for its content. Should events of a dialect follow (within 64, and within 4 at another
///   path), how its answer ends counts again. [`hold`](Self::hold) hands on nothing of such a stream before its end either.
///   [`dialect`](Self::dialect) says that the path's dialect is no guess.
/// - *An event is too large to be looked at*, above 1 MiB even without its long strings (an image is one): the answer may have ended
///   in it. If nothing of the answer follows, it is not known whether it is whole: it passes with the end
///   [`Unknown`](crate::proto::dialect::End::Unknown), with which no layer keeps an event stream, and fails with
///   [`MissingEnd::Error`].
/// - *The rest of an answer*, for which a [`ResumeLayer`](crate::ResumeLayer) outside asks: nothing of it is withheld.
/// - *A `HEAD`, another path, another method*: untouched, but for event streams.
/// - *The caller drops the future or the body*: so is what is inside. Nothing is left behind.
///
/// # Cancel safety
///
/// Dropping the future drops the call.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or one of those
/// above.
///
/// # Cost
///
/// An event that says only a piece of text is compared with an earlier one, without a parse of its JSON. Nothing is allocated for it. A
/// stream costs about 1 KiB.
#[derive(Clone, Debug)]
pub struct StreamGuardLayer {
    config: Config,
}

/// Models that think before their first word do so for a minute.
const FIRST_CONTENT: Duration = Duration::from_secs(90);

// === impl StreamGuardLayer ===

impl StreamGuardLayer {
    /// A layer that knows the dialect by the request's path, and else by the first events.
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

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new().enabled(false)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Turns it on or off. Default: on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// All answers are of this dialect, whatever their path and their first events. For upstreams with paths of their own.
    #[must_use]
    pub fn dialect(mut self, kind: Kind) -> Self {
        self.config.dialect = Some(Chosen::Known(kind));
        self
    }

    /// All answers are of a dialect that this crate does not know. `make` is called for each answer.
    ///
    /// See [`Dialect`] for how to write one.
    #[must_use]
    pub fn custom_dialect<D: Dialect + 'static>(mut self, make: impl Fn() -> D + Send + Sync + 'static) -> Self {
        self.config.dialect = Some(Chosen::Custom(Arc::new(move || Box::new(make()))));
        self
    }

    /// What to do with a stream that ends without a word of how the answer ended. Default: [`MissingEnd::Auto`].
    #[must_use]
    pub fn missing_end(mut self, missing_end: MissingEnd) -> Self {
        self.config.missing_end = missing_end;
        self
    }

    /// Hands on whole answers only: they are withheld to their end, so that everything that is wrong with them can still be
    /// retried. One that is larger than `max_bytes` (and, where it is no stream, than 256 KiB) is refused with a 502. So is a stream
    /// of another API at the path of a dialect, which is whole with a clean end behind an event. What is handed on as it comes at
    /// all is not held: an answer to another method than `POST`, the rest of an answer for which a
    /// [`ResumeLayer`](crate::ResumeLayer) asks, and a stream at a path of no dialect (see [`dialect`](Self::dialect)). Default:
    /// off.
    #[must_use]
    pub fn hold(mut self, max_bytes: usize) -> Self {
        self.config.hold = Some(max_bytes);
        self
    }

    /// The longest time from the head to the first content of a stream, whatever keep-alives come meanwhile; `None`: no limit.
    /// Default: 90 s. Where the request has a [`TimeoutProfile`](crate::TimeoutProfile) whose `first_byte` is longer, that counts.
    #[must_use]
    pub fn first_content(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.config.first_content = limit.into();
        self
    }

    /// What to do about a request that violated the upstream's content policy. Default: [`NextStep::GiveUp`]. With
    /// [`NextStep::TryAnother`], a backup is asked to say what the upstream would not.
    #[must_use]
    pub fn filtered(mut self, next: NextStep) -> Self {
        self.config.filtered = next;
        self
    }

    /// Writes the event that tells the caller of an error before the body ends with it. Default: off, since a layer outside may
    /// still mend the answer, and [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) writes it at last. Turn it on where this layer is
    /// the outermost one before a caller.
    #[must_use]
    pub fn error_events(mut self, write: bool) -> Self {
        self.config.error_frames = write;
        self
    }

    /// The memory in which what is withheld of all calls is counted together, until it is handed on. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Tells `observer` of every refusal, of every stream that failed, and of answers that it cannot read.
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
