use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::config::{Choose, Config};
use super::service::Resume;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::backoff::{Backoff, Jitter};
use crate::proto::resume::ResumeBy;
use crate::rt::entropy::Entropy;
use crate::rt::retry_budget::RetryBudget;

/// Goes on with event streams that broke in the middle, where the rest can be had and is provably the rest.
///
/// A connection that drops at the 400th of 600 tokens is an error for the caller, though some servers keep the answer: they
/// number their events, or say otherwise how far a stream has come, and hand out what follows. This layer remembers the
/// last event that the caller has wholly received, asks the same server for what follows it, and hands that on in the same
/// body. The caller sees one stream with a pause in it.
///
/// # When to use it, and when not
///
/// Where answers are long and their server has a cursor. Known are:
///
/// | Server | Known by | The rest |
/// |---|---|---|
/// | OpenAI's Responses in the background (`"background": true`) | `POST ../responses`, and the answer says so | `GET ../responses/{id}?stream=true&starting_after=N` |
/// | the same, asked for its events | `GET ../responses/{id}?stream=true` | the same `GET` behind the number |
/// | llama.cpp | `POST ../chat/completions` with `X-Conversation-Id` | `GET ../stream?conv_id=ID&from=N`, in bytes |
/// | every server whose events have an `id` | `GET` with `Accept: text/event-stream` | the same `GET` with `Last-Event-ID` |
/// | others | [`resume_by`](Self::resume_by) | as a [`ResumeBy`](crate::ResumeBy) says |
///
/// All others pass untouched. An answer in Responses that is not made in the background ends with its connection, and a chat
/// completion has no cursor at all: for those there is the [verified restart](#verified-restart), which is off by default.
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
/// Outside of [`FallbackLayer`](crate::FallbackLayer), to which it says which upstream has the answer
/// ([`PinTo`](crate::PinTo)), and inside of [`DedupLayer`](crate::DedupLayer), so that all who listen to a call hear the
/// rest, and of [`DeadlineLayer`](crate::DeadlineLayer). An [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) outside fills the
/// pause. A [`StreamGuardLayer`](crate::StreamGuardLayer) inside finds streams that end early; an
/// [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer) inside finds those that stall.
///
/// # Which ways to go on are right
///
/// | Way | Right? | Here |
/// |---|---|---|
/// | withhold the answer until it is whole, then retry freely | yes: nothing was sent | [`StreamGuardLayer::hold`](crate::StreamGuardLayer::hold) |
/// | retry before the first content | yes | [`StreamGuardLayer`](crate::StreamGuardLayer) with retries |
/// | the server's own cursor | yes, by the server's word, which is checked | this layer |
/// | a new answer to the same request, where it begins with what the caller has | yes | [`verified_restart`](Self::verified_restart) |
/// | the model goes on with its half answer as a prefill, or is told to | **no** | never |
/// | another model's text behind the first one's | **no** | never |
///
/// Why not by prefill? The text at the seam is cut into other tokens, hidden reasoning is gone, limits and schemas begin
/// anew: what comes is plausible, and no answer that any model gave. Products that had it took it out again.
///
/// # Verified restart
///
/// With [`verified_restart`](Self::verified_restart) an answer without a cursor is made anew: the same request is sent once more, to
/// the same upstream. Its answer is withheld while it repeats what the caller has, and what it says behind that is handed on. The
/// caller then holds the second answer, whole: one that this model gave to this request. Where the second answer differs from
/// the first anywhere, nothing of it is handed on. So nothing is asked of the model; how often it says the same twice decides
/// only how often this helps. At `temperature: 0`, or with a `seed`, short texts mostly agree, and long ones mostly not.
///
/// - It is for the text (and the thoughts) of chat completions, Anthropic's Messages and Gemini's `generateContent`, up to
///   [`max_prefix`](Self::max_prefix). What cannot be compared is not made anew: calls of tools, which the caller may have run;
///   signatures, sounds and images; several choices; probabilities and citations; Responses.
/// - The second answer takes the id of the first. Its start events are dropped, and an event that goes across the end of what the
///   caller has is written anew with the rest of its text.
/// - The model must have the same name. Another one, or another upstream, only with [`other_model`](Self::other_model).
/// - One for each call, and none where the deadline leaves less than half of the time that the first answer took to come as far. It
///   is billed as a call of its own. The caller's stream has the usage of the second answer;
///   [`Ending::total_usage`](crate::Ending::total_usage) has that of both, as far as they told it, where a
///   [`StreamGuardLayer`](crate::StreamGuardLayer) stands inside.
///
/// # What happens when
///
/// - *The body fails, stalls until a layer inside gives up, or ends before the model said that it has ended* (in a known dialect):
///   the server is asked for what follows the last whole event. Events that are not whole are withheld, at most 1 MiB; where one
///   is larger, or there is no [memory](Self::memory), the stream passes on as it comes, and is not continued; after a break, before
///   an event has shown that what comes is the rest, it ends with the error that it had. Behind such an event a second answer that
///   goes on in the place of the first has its own id.
///   Where the stream has a `retry` field, the server is given as long (at most 30 s).
/// - *The rest is not the rest*: an event twice, a gap, other ids, another answer, or a beginning. Nothing of it is handed on,
///   and the body ends with the error that it had. (Where ids are not numbers, a gap cannot be seen; where the cursor is a
///   number of bytes, only the first and the last event are known again: there the server's word counts.)
/// - *The request for the rest is refused* with a 4xx: the answer is made anew, where [`verified_restart`](Self::verified_restart) is
///   on and can be right; else the body ends with the error that it had, as it always does after a 401, 402, 403 or 407, and where
///   the answer is a success and no stream. After a 408, 425, 429, a 5xx or a lost connection it is asked again, after the wait that
///   the server asks for, or half a second and more.
/// - *Three continuations in a row bring nothing* ([`attempts`](Self::attempts)), the [budget](Self::budget) is spent, or the
///   call's deadline does not leave the time: the same. An error that the stream itself tells of is heard once more at most.
/// - *The first answer came from a backup*: the backup is asked for the rest, and no other. Host, credentials and query are
///   those of the first request.
/// - *The last event has no cursor*: what follows would come twice, so that the body ends with its error.
/// - *A verified restart is refused, differs, or breaks before it has come as far*: the body ends with the first error. Where it breaks
///   behind that, with its own.
/// - *The request carries [`NoRetry`](crate::NoRetry)*: it passes untouched. So does an answer that is compressed although
///   `Accept-Encoding: identity` was sent upstream.
/// - *The caller drops the body*: so is what is inside, the request for the rest too.
///
/// An [`Event::StreamResumed`](crate::Event::StreamResumed) tells of a stream that goes on, an
/// [`Event::NotResumed`](crate::Event::NotResumed) of one that does not.
///
/// # Cancel safety
///
/// Dropping the future or the body drops everything at any point. Nothing is left behind.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): that of the inner body which broke
/// first, whatever became of the attempts to go on.
///
/// # Cost
///
/// A request whose answer could be continued: a copy of its head, one allocation for the answer's state, and a count in the
/// budget. Each event is looked through for its cursor. Of ids that are not numbers, 8 bytes are kept for each of at most 4,096
/// events. All other calls cost a look at their path. A continuation is a request of its own, which bills nothing: the
/// server has made the answer already. With verified restarts the request's body is kept, each event is hashed, and 16 bytes are
/// kept for each KiB of text.
#[derive(Clone, Debug)]
pub struct ResumeLayer {
    config: Config,
}

/// What the official client of Gemini makes, and what a server needs to come back behind a load balancer.
const ATTEMPTS: u32 = 3;
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(5), jitter: Jitter::Equal };
/// A prompt of some hundred thousand tokens; images are what goes beyond it.
const REPLAY_LIMIT: usize = 2 * 1024 * 1024;
/// A longer text is rarely said twice.
const MAX_PREFIX: usize = 8 * 1024;

// === impl ResumeLayer ===

impl ResumeLayer {
    /// A layer that goes on with the streams of the servers that it knows.
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

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new().enabled(false)
    }

    /// Turns it on or off. Default: on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Says how the event streams of a server are continued that this crate does not know: all of them by this cursor.
    #[must_use]
    pub fn resume_by(self, by: ResumeBy) -> Self {
        self.resume_by_request(move |_| Some(by.clone()))
    }

    /// The same by the head of the request. `None`: as by default.
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
        self.config.choose = Some(Choose(Arc::new(choose)));
        self
    }

    /// Makes an answer anew where its server has no cursor, or refuses it, and goes on with the new one where that begins with
    /// what the caller has: see [verified restart](#verified-restart). Default: off, since the answer is made, and billed, twice.
    #[must_use]
    pub fn verified_restart(mut self, restart: bool) -> Self {
        self.config.restart = restart;
        self
    }

    /// Whether another model may make the new answer, or another upstream: then the request goes the way of every other, to a
    /// backup too, and the caller must have 200 characters that agree. Default: no, the same upstream and a model of the same name.
    #[must_use]
    pub fn other_model(mut self, other_model: bool) -> Self {
        self.config.other_model = other_model;
        self
    }

    /// The longest text, in bytes, of which a verified restart is made. Default: 8 KiB.
    #[must_use]
    pub fn max_prefix(mut self, bytes: usize) -> Self {
        self.config.max_prefix = bytes;
        self
    }

    /// How many continuations in a row may bring nothing new. Default: 3.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.config.attempts = attempts;
        self
    }

    /// The budget of continuations, which may be shared with other layers. Default: one of its own, a
    /// [`RetryBudget::default`].
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.config.budget = budget;
        self
    }

    /// How many bytes of a request body are kept where it is to be sent again. Default: 2 MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// The memory in which is counted what is kept of all calls together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Tells `observer` of every stream that was continued, or could not be.
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
