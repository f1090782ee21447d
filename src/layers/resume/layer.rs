use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::config::{Config, CursorChooser};
use super::service::Resume;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::backoff::{Backoff, Jitter};
use crate::proto::resume::ResumeBy;
use crate::rt::entropy::Entropy;
use crate::rt::retry_budget::RetryBudget;

/// Continues event streams that broke in the middle, if the server can send the rest and the rest can be verified.
///
/// A connection that drops at the 400th of 600 tokens is an error for the caller, though some servers keep the answer:
/// they number their events, or have another cursor, and send what follows it. This layer remembers the last complete
/// event that the caller received, asks the same server for the events after it, and forwards them in the same body. The
/// caller sees one stream with a pause.
///
/// # When to use it, and when not
///
/// Where answers are long and their server has a cursor. The layer knows:
///
/// | Server | Recognised by | Request for the rest |
/// |---|---|---|
/// | OpenAI's Responses in the background (`"background": true`) | `POST ../responses`, and the answer says so | `GET ../responses/{id}?stream=true&starting_after=N` |
/// | the same, asked for its events | `GET ../responses/{id}?stream=true` | the same `GET` after the number |
/// | llama.cpp | `POST ../chat/completions` with `X-Conversation-Id` | `GET ../stream?conv_id=ID&from=N`, in bytes |
/// | every server whose events have an `id` | `GET` with `Accept: text/event-stream` | the same `GET` with `Last-Event-ID` |
/// | others | [`resume_by`](Self::resume_by) | set by a [`ResumeBy`](crate::ResumeBy) |
///
/// All others pass untouched. A Responses answer that is not made in the background ends with its connection, and a chat
/// completion has no cursor: for those there is the [verified restart](#verified-restart), which is off by default.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full, StreamBody};
/// use http_body::Frame;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_buttress::{CallBody, ResumeLayer};
///
/// // A server that breaks off in its second event, and has the rest for those who ask for it.
/// let upstream = service_fn(|request: Request<CallBody>| async move {
///     let frames: Vec<Result<Frame<Bytes>, std::io::Error>> = match request.headers().get("last-event-id") {
///         None => vec![
///             Ok(Frame::data("id: 1\ndata: hello\n\nid: 2\nda".into())),
///             Err(std::io::ErrorKind::ConnectionReset.into()),
///         ],
///         Some(id) if id == "1" => vec![Ok(Frame::data("id: 2\ndata: world\n\n".into()))],
///         Some(_) => unreachable!(),
///     };
///     let body = StreamBody::new(tokio_stream::iter(frames));
///     let response = Response::builder().header("content-type", "text/event-stream").body(body);
///     Ok::<_, std::convert::Infallible>(response.unwrap())
/// });
///
/// let service = ResumeLayer::new().layer(upstream);
/// let request = Request::get("/events").header("accept", "text/event-stream").body(Full::<Bytes>::default()).unwrap();
/// let body = service.oneshot(request).await.unwrap().into_body();
/// assert_eq!(body.collect().await.unwrap().to_bytes(), "id: 1\ndata: hello\n\nid: 2\ndata: world\n\n");
/// # }
/// ```
///
/// # Place in the stack
///
/// Outside [`FallbackLayer`](crate::FallbackLayer), which it tells which upstream has the answer
/// ([`PinTo`](crate::PinTo)). Inside [`DedupLayer`](crate::DedupLayer), so that all readers of a shared call get the
/// rest, and inside [`DeadlineLayer`](crate::DeadlineLayer). An [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) outside
/// fills the pause. A [`StreamGuardLayer`](crate::StreamGuardLayer) inside finds truncated streams; an
/// [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer) inside finds stalled ones.
///
/// # Which ways to continue are correct
///
/// | Way | Correct? | Here |
/// |---|---|---|
/// | withhold the answer until it is complete, then retry freely | yes: nothing was sent | [`StreamGuardLayer::hold`](crate::StreamGuardLayer::hold) |
/// | retry before the first content | yes | [`StreamGuardLayer`](crate::StreamGuardLayer) with retries |
/// | the server's own cursor | yes, and the layer checks the rest | this layer |
/// | a new answer to the same request, if it begins with the text that the caller has | yes | [`verified_restart`](Self::verified_restart) |
/// | let the model continue its half answer as a prefill, or by a prompt | **no** | never |
/// | another model's text after the first model's | **no** | never |
///
/// Why not by prefill? The text at the seam is tokenised differently, hidden reasoning is lost, limits and schemas start
/// again: the result is plausible, but no model gave that answer. Products that had it removed it.
///
/// # Verified restart
///
/// With [`verified_restart`](Self::verified_restart) the layer asks for a new answer if there is no cursor: it sends the
/// same request once more, to the same upstream. It withholds the new answer while that repeats the text that the caller
/// has, and forwards what follows. The caller then has the complete second answer: one that this model gave to this
/// request. If the second answer differs from the first anywhere, the layer forwards nothing of it. Correctness never
/// depends on the model repeating itself; only how often a restart succeeds does. At `temperature: 0`, or with a `seed`,
/// short texts mostly agree, and long ones mostly not.
///
/// - It works for the text (and the thoughts) of chat completions, Anthropic's Messages and Gemini's `generateContent`,
///   up to [`max_prefix`](Self::max_prefix). Answers that cannot be compared are not restarted: tool calls, which the
///   caller may have run; signatures, sounds and images; several choices; probabilities and citations; Responses.
/// - The second answer gets the id of the first. The layer drops its start events, and rewrites an event that crosses the
///   end of the caller's text to contain only the rest.
/// - The model must have the same name. Another model, or another upstream, only with [`other_model`](Self::other_model).
/// - One restart per call, and none if the deadline leaves less than half of the time that the first answer took to the
///   same point. The provider bills it as a second call. The caller's stream has the usage of the second answer;
///   [`Ending::total_usage`](crate::Ending::total_usage) has the reported usage of both, with a
///   [`StreamGuardLayer`](crate::StreamGuardLayer) inside.
///
/// # What happens when
///
/// - *The body fails, stalls until a layer inside ends it, or ends before the model said that it has ended* (in a known
///   dialect): the layer asks the server for what follows the last complete event. It withholds incomplete events, at
///   most 1 MiB. If an event is larger, or the [memory](Self::memory) is spent, the stream passes as it arrives, and is
///   not continued; in a continuation that no event has verified yet, the body ends with the original error. After such
///   an event a second answer in the place of the first has its own id. If the stream has a `retry` field, the layer
///   waits that long (at most 30 s).
/// - *The rest is wrong*: a repeated event, a gap, other ids, another answer, or a new beginning. The layer forwards
///   nothing of it, and the body ends with the original error. (If ids are not numbers, the layer cannot see a gap. If
///   the cursor is a number of bytes, it can check only the first and the last event, and else trusts the server.)
/// - *The request for the rest gets a 4xx*: the layer makes a verified restart, if
///   [`verified_restart`](Self::verified_restart) is on and possible; else the body ends with the original error. The
///   body always does so after a 401, 402, 403 or 407, and after a success that is no stream. After a 408, 425, 429, a
///   5xx or a lost connection the layer asks again, after the wait that the server asks for, or at least 0.5 s.
/// - *Three continuations in a row bring nothing* ([`attempts`](Self::attempts)), the [budget](Self::budget) is spent, or
///   the call's deadline leaves too little time: the body ends with the original error. After an error event in the
///   stream itself, the layer continues at most once more.
/// - *The first answer came from a backup*: the layer asks only the backup for the rest. Host, credentials and query are
///   those of the first request.
/// - *The last event has no cursor*: what follows would come twice, so the body ends with its error.
/// - *A verified restart is refused, differs, or breaks before the same point*: the body ends with the first error. If it
///   breaks later, with its own error.
/// - *The request carries [`NoRetry`](crate::NoRetry)*: it passes untouched. So does an answer that is compressed
///   although `Accept-Encoding: identity` was sent upstream.
/// - *The caller drops the body*: the layer drops the inner body, and the request for the rest.
///
/// A stream that continues emits an [`Event::StreamResumed`](crate::Event::StreamResumed), a stream that does not an
/// [`Event::NotResumed`](crate::Event::NotResumed).
///
/// # Cancel safety
///
/// Dropping the future or the body drops everything at any point.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): that of the inner body that
/// broke first, whatever the result of the continuations.
///
/// # Cost
///
/// A request whose answer could be continued: a copy of its head, one allocation for the answer's state, and a count in
/// the budget. The layer searches each event for its cursor. It keeps 8 bytes for each id that is not a number, for at
/// most 4,096 events. All other calls cost a look at their path. The provider bills nothing for a continuation: the
/// server has already made the answer. Verified restarts keep the request's body, hash each event, and keep 16 bytes per
/// KiB of text.
#[derive(Clone, Debug)]
pub struct ResumeLayer {
    config: Config,
}

/// As many as the official client of Gemini makes, and enough for a server to restart behind a load balancer.
const ATTEMPTS: u32 = 3;
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(5), jitter: Jitter::Equal };
/// The size of a prompt of some hundred thousand tokens; requests with images may exceed it.
const REPLAY_LIMIT: usize = 2 * 1024 * 1024;
/// A model rarely repeats a longer text.
const MAX_PREFIX: usize = 8 * 1024;

// === impl ResumeLayer ===

impl ResumeLayer {
    /// Returns a layer that continues the streams of the servers that it knows.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Config {
                enabled: true,
                choose: None,
                restart: false,
                other_model: false,
                max_prefix: MAX_PREFIX,
                attempts: ATTEMPTS,
                backoff: BACKOFF,
                budget: RetryBudget::default(),
                replay_limit: REPLAY_LIMIT,
                memory: Memory::default(),
                entropy: Entropy::default(),
                emitter: Emitter::default(),
            },
        }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new().enabled(false)
    }

    /// Switches the layer on or off; its settings are kept. Default: on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Continues all event streams by this cursor, for servers that this crate does not know.
    #[must_use]
    pub fn resume_by(self, by: ResumeBy) -> Self {
        self.resume_by_request(move |_| Some(by.clone()))
    }

    /// Chooses the cursor by the head of the request. `None`: the default.
    ///
    /// ```
    /// use tower_buttress::{ResumeBy, ResumeLayer};
    ///
    /// // An MCP server before 2026-07-28, beside others.
    /// let layer = ResumeLayer::new()
    ///     .resume_by_request(|request| (request.uri.path() == "/mcp").then(ResumeBy::sse_id));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn resume_by_request(mut self, choose: impl Fn(&Parts) -> Option<ResumeBy> + Send + Sync + 'static) -> Self {
        self.config.choose = Some(CursorChooser(Arc::new(choose)));
        self
    }

    /// Asks for a new answer if the server has no cursor, or refuses it, and continues with the new answer if that begins
    /// with the text that the caller has: see [verified restart](#verified-restart). Default: off, since the provider
    /// makes, and bills, the answer twice.
    #[must_use]
    pub fn verified_restart(mut self, restart: bool) -> Self {
        self.config.restart = restart;
        self
    }

    /// Whether another model, or another upstream, may give the new answer. The request then takes the normal way, also
    /// to a backup, and at least 200 characters of the caller's text must agree. Default: no, the same upstream and a
    /// model of the same name.
    #[must_use]
    pub fn other_model(mut self, other_model: bool) -> Self {
        self.config.other_model = other_model;
        self
    }

    /// The longest text, in bytes, that a verified restart may repeat. Default: 8 KiB.
    #[must_use]
    pub fn max_prefix(mut self, bytes: usize) -> Self {
        self.config.max_prefix = bytes;
        self
    }

    /// The number of continuations in a row that may bring nothing new. Default: 3.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.config.attempts = attempts;
        self
    }

    /// The budget of continuations, which other layers may share. Default: its own [`RetryBudget::default`].
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.config.budget = budget;
        self
    }

    /// The number of bytes of a request body that are kept for another request. Default: 2 MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// The memory that counts the kept data of all calls together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Reports streams that were continued, or could not be, to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.emitter = Emitter::to(observer);
        self
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }
}

impl Default for ResumeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ResumeLayer {
    type Service = Resume<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Resume::new(inner, Arc::new(self.config.clone()))
    }
}
