use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tower_layer::Layer;

use super::config::{Config, NoticeText, SHORTEST_INTERVAL};
use super::service::SseHeartbeat;
use crate::call::Notice;
use crate::event::{Emitter, Observer};
use crate::policy::heartbeat_frame::HeartbeatFrame;

/// Keeps `text/event-stream` responses alive through proxies by inserting comments.
///
/// A thinking model is silent for longer than a load balancer waits (nginx and AWS 60 s, Heroku 55 s). After `interval`
/// of silence the layer inserts one heartbeat, and only where no reader sees a difference: never within a line, before
/// the LF of a CRLF, with a blank line into an event, or into compressed bytes. If the upstream stops in the middle of a
/// line, the layer sends nothing, however long the silence lasts.
///
/// # When to use it, and when not
///
/// On servers and gateways that answer with event streams. A stream that axum's `Sse` makes with `KeepAlive` needs no
/// second heartbeat. The layer boxes the call of a stream that may begin early, so the inner service's future must be
/// `Send` and `'static`.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, channel::Channel};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::SseHeartbeatLayer;
///
/// // An upstream that thinks for 20 s.
/// let upstream = service_fn(|_: Request<()>| async {
///     let (mut sender, body) = Channel::<Bytes>::new(1);
///     tokio::spawn(async move {
///         tokio::time::sleep(Duration::from_secs(20)).await;
///         sender.send_data("data: 42\n\n".into()).await.unwrap();
///     });
///     let response = Response::builder().header("content-type", "text/event-stream").body(body).unwrap();
///     Ok::<_, std::convert::Infallible>(response)
/// });
///
/// let service = ServiceBuilder::new()
///     .layer(SseHeartbeatLayer::new(Duration::from_secs(15)))
///     .service(upstream);
///
/// let response = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.headers()["x-accel-buffering"], "no");
/// let all = response.into_body().collect().await.unwrap().to_bytes();
/// assert_eq!(all, ": keepalive\n\ndata: 42\n\n");
/// # }
/// ```
///
/// # Place in the stack
///
/// Outermost, except for [`RejectionsAsErrorsLayer`](crate::RejectionsAsErrorsLayer): no layer may count a heartbeat as
/// the upstream's activity, or store it. Compression goes outside, and must flush each frame.
///
/// # What happens when
///
/// - *The upstream is silent*: after `interval` in which the caller waited for it, one heartbeat. A caller that does not
///   read gets none meanwhile, and at most one when it reads again.
/// - *There is no answer yet*: nothing, unless [`before_headers`](Self::before_headers) is set.
/// - *The limit of [`max_silence`](Self::max_silence) is reached*: the layer drops the inner body at once; the body fails
///   with [`StreamSilent`](crate::error::StreamSilent), and then is at its end.
/// - *The body fails*: with [`error_events`](Self::error_events), an event reports the error before the body fails.
/// - *The caller drops the future or the body*: the layer drops the inner one. Nothing is left behind.
/// - *The answer is no 2xx event stream, is for HEAD, or is 204, 205, 206, an upgrade or empty*: it passes untouched.
/// - *It is compressed, or has a `Content-Length`*: it passes untouched, with [`Event::Bypassed`](crate::Event::Bypassed)
///   (as does an event stream with status 206).
/// - *The request or the answer says `no-transform`*: the same. With [`error_events`](Self::error_events) the error event
///   still follows if the body fails, which changes none of the upstream's bytes.
/// - *Otherwise*: the layer removes `ETag`, `Accept-Ranges` and digests from the head, and adds `X-Accel-Buffering: no`
///   and `Cache-Control: no-cache` unless the answer has them. The length is unknown from then on.
/// - *A byte order mark follows a heartbeat*: the layer removes it, since a reader would take it for content.
/// - *Trailers*: pass, without the digests if anything was inserted. There is no heartbeat after them.
/// - *The request or the answer carries a [`HeartbeatFrame`]*: it replaces the layer's frame; the answer's takes
///   precedence over the request's.
///
/// # Cancel safety
///
/// Dropping the future that polls the body loses nothing: bytes that may begin a byte order mark are held in the body.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or
/// `StreamSilent`; with `before_headers` also the service's, a [`Rejection`](crate::Rejection), an
/// [`UpstreamError`](crate::error::UpstreamError) or an [`UnexpectedResponse`](crate::error::UnexpectedResponse).
///
/// # Cost
///
/// A frame that is ready: one pass of the [`Scanner`](crate::proto::sse::Scanner) over its bytes, or a check of its end
/// if a `StreamGuardLayer` inside has scanned them; no clock, no timer, no allocation, no copy. A frame that must be
/// waited for: one clock read. The first wait of a body allocates its timer, which moves only when it fires, or when its
/// deadline moves forward. A heartbeat allocates nothing. With `before_headers`, one allocation for each call that may
/// begin early.
#[derive(Clone, Debug)]
pub struct SseHeartbeatLayer {
    config: Config,
}

// === impl SseHeartbeatLayer ===

impl SseHeartbeatLayer {
    /// Sends a heartbeat after each `interval` of silence (at least 1 ms). 15 s is well below the limits of common
    /// proxies.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { config: Config { interval: Some(interval.max(SHORTEST_INTERVAL)), ..Config::disabled() } }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { config: Config::disabled() }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.interval.is_some()
    }

    /// Sets the bytes of a heartbeat. Default: [`HeartbeatFrame::ByDialect`].
    #[must_use]
    pub fn frame(mut self, frame: HeartbeatFrame) -> Self {
        self.config.frame = frame;
        self
    }

    /// Ends a stream whose upstream has sent nothing for `limit`, so heartbeats do not hide a dead upstream forever.
    /// Default: no limit.
    ///
    /// Any byte of the upstream resets the timer, its own comments too. To ignore its comments see
    /// [`IdleActivity::SseEvents`](crate::IdleActivity::SseEvents).
    #[must_use]
    pub fn max_silence(mut self, limit: Duration) -> Self {
        self.config.max_silence = Some(limit);
        self
    }

    /// Reports why a stream fails, in a last event that the clients of its [dialect](crate::proto::dialect::StreamError)
    /// raise as an error. If the path belongs to no dialect:
    ///
    /// ```text
    /// event: error
    /// data: {"type":"error","error":{"type":"api_error","code":null,"message":"..","param":null}}
    /// ```
    ///
    /// It covers every error of the inner body, also the time limits of this crate and the errors of the stream guard.
    /// Ollama's streams of JSON lines end with an error line. The type is `timeout_error` if a limit of this crate was
    /// reached; the message says which. The body still fails, 50 ms later, so a truncated stream never looks complete. In
    /// the middle of an event the layer cannot insert another one, and the body only fails. Default: off.
    #[must_use]
    pub fn error_events(mut self, on: bool) -> Self {
        self.config.error_events = on;
        self
    }

    /// Whether a request with `Prefer: respond-async` may be answered with a 202, by a
    /// [`DedupLayer`](crate::DedupLayer::resumable) inside or by the upstream. If so, its stream is not [begun
    /// early](Self::before_headers). Default: yes; in a [preset](crate::presets), only if its `DedupLayer` applies the
    /// preference.
    #[must_use]
    pub fn respond_async(mut self, applied: bool) -> Self {
        self.config.respond_async = Some(applied);
        self
    }

    /// Sets `respond_async` unless it is set.
    pub(crate) fn or_respond_async(mut self, applied: bool) -> Self {
        self.config.respond_async.get_or_insert(applied);
        self
    }

    /// Begins the stream when there is no answer after `after` (at least 1 ms; [`Duration::MAX`] is never): the layer
    /// sends `200`, `text/event-stream` and a heartbeat, and further heartbeats until the answer arrives. The response
    /// then carries [`HeadersSentEarly`](crate::HeadersSentEarly). Default: never.
    ///
    /// A [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) withholds the head until there is data, and retries and
    /// fallbacks take their time too: without this setting, no heartbeat goes out during that time.
    ///
    /// # What it costs
    ///
    /// **The status and the headers of the answer.** An answer that has begun cannot become a 429 or a 503: every error,
    /// and every refusal of the layers inside, becomes an event of the stream as with
    /// [`error_events`](Self::error_events), and then the body fails. Clients do not retry such an error by themselves,
    /// and see neither `Retry-After` nor any other header of the answer. Choose an `after` that is long enough for a
    /// first retry, and shorter than the shortest timeout of the proxies in front.
    ///
    /// # Which requests
    ///
    /// Those that ask for an event stream: by `Accept`, by [`ExpectsEventStream`](crate::ExpectsEventStream) in their
    /// extensions, or by a path of Google's APIs (Gemini only with `alt=sse` or such an `Accept`). Not
    ///
    /// - for a dialect whose clients accept no heartbeat, or a path that belongs to no dialect, unless a
    ///   [`frame`](Self::frame) is set. Ollama's JSON lines (`application/x-ndjson`, to requests that carry
    ///   `ExpectsEventStream`) still begin early if the layer has [`notices`](Self::notices), without heartbeats;
    /// - with `Prefer: respond-async`, which asks for a 202, unless that is [off](Self::respond_async);
    /// - with `Cache-Control: no-transform`, or for HEAD.
    ///
    /// The layer removes `Accept-Encoding` from these requests: a compressed answer could not follow.
    ///
    /// # What happens then
    ///
    /// - *The answer arrives in time*: as without this setting.
    /// - *It arrives later, and is a 2xx event stream*: its body follows.
    /// - *It is anything else, or an error*: the error event, and then the body fails; it never ends without an error.
    /// - *The limit of [`max_silence`](Self::max_silence) is reached*: the same, and the layer drops the call.
    /// - *The caller drops the body*: the layer drops the call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// use std::time::Duration;
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_buttress::SseHeartbeatLayer;
    ///
    /// // An upstream whose head takes 40 s.
    /// let upstream = service_fn(|_: Request<()>| async {
    ///     tokio::time::sleep(Duration::from_secs(40)).await;
    ///     let answer = Response::builder().header("content-type", "text/event-stream");
    ///     Ok::<_, std::convert::Infallible>(answer.body(Full::<Bytes>::from("data: 42\n\n")).unwrap())
    /// });
    ///
    /// let heartbeats = SseHeartbeatLayer::new(Duration::from_secs(15)).before_headers(Duration::from_secs(10));
    /// let service = ServiceBuilder::new().layer(heartbeats).service(upstream);
    ///
    /// let start = tokio::time::Instant::now();
    /// let request = Request::post("/v1/messages").header("accept", "text/event-stream").body(()).unwrap();
    /// let response = service.oneshot(request).await.unwrap();
    /// assert_eq!((response.status().as_u16(), start.elapsed().as_secs()), (200, 10));
    ///
    /// // At 10, 25 and 40 s, which is when the answer comes too.
    /// let all = response.into_body().collect().await.unwrap().to_bytes();
    /// assert_eq!(all, ": keepalive\n\n: keepalive\n\ndata: 42\n\n");
    /// # }
    /// ```
    #[must_use]
    pub fn before_headers(mut self, after: Duration) -> Self {
        self.config.before_headers = (after < Duration::MAX).then(|| after.max(SHORTEST_INTERVAL));
        self
    }

    /// Adds `x-should-retry: false` to a head that is sent [early](Self::before_headers), for stacks that retry inside.
    /// An error that then ends the stream is the result of all attempts, and a gateway in front that retries it would
    /// multiply them. See [`RetryAfterBackoffLayer::mark_exhausted`](crate::RetryAfterBackoffLayer::mark_exhausted).
    /// Default: no; in a [preset](crate::presets) the setting of its retries.
    #[must_use]
    pub fn mark_exhausted(mut self, mark: bool) -> Self {
        self.config.mark_exhausted = Some(mark);
        self
    }

    /// Sets `mark_exhausted` unless it is set.
    pub(crate) fn or_mark_exhausted(mut self, mark: bool) -> Self {
        self.config.mark_exhausted.get_or_insert(mark);
        self
    }

    /// Tells the caller why it has to wait. `text` returns the text for the stream when the call waits in a queue or for
    /// a rate limit, is retried, goes to a backup, or is continued after its stream broke. It gets the [`Notice`] and the
    /// headers of the request, for example to choose a language or the callers that want notices; `None` sends no notice.
    /// Default: none.
    ///
    /// The text is one line of at most 500 characters: control characters become spaces. Notices are for programs: a
    /// front end that knows the form can show them.
    ///
    /// | Dialect | Form |
    /// |---|---|
    /// | Chat completions | a chunk with an empty `delta`, and `"x_notice":{"type":"retry","message":".."}` |
    /// | Anthropic | `event: ping`, with `x_notice` in its data |
    /// | Gemini | a chunk without candidates, with `x_notice` |
    /// | Ollama's JSON lines | a line with an empty message, and `x_notice` |
    /// | others | a comment: `: notice {"type":"retry","message":".."}` |
    ///
    /// The official clients ignore each of these. The layer sends a notice only while the upstream is silent and between
    /// events, and none once the answer may have ended. Before the answer it sends one only if the stream has begun
    /// ([`before_headers`](Self::before_headers)); a notice never begins a stream. The layer drops a notice that is still
    /// unsent when data arrives. A notice does not count as the upstream's activity. Since the layer stands outside
    /// [`DedupLayer`](crate::DedupLayer), notices are not stored, and callers that joined the call do not get them.
    ///
    /// It costs a copy of the request's headers for each call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// use std::time::Duration;
    /// use bytes::Bytes;
    /// use http::{Request, Response, StatusCode};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_buttress::{Attempt, Notice, RetryAfterBackoffLayer, SseHeartbeatLayer};
    ///
    /// // Busy at first; then it thinks for 10 s.
    /// let upstream = service_fn(|request: Request<_>| async move {
    ///     let busy = Attempt::of(&request) == Attempt(1);
    ///     tokio::time::sleep(Duration::from_secs(10)).await;
    ///     let answer = Response::builder().status(if busy { 503 } else { 200 }).header("retry-after", "10");
    ///     let answer = answer.header("content-type", "text/event-stream");
    ///     Ok::<_, std::convert::Infallible>(answer.body(Full::<Bytes>::from("data: 42\n\n")).unwrap())
    /// });
    ///
    /// let heartbeats = SseHeartbeatLayer::new(Duration::from_secs(60))
    ///     .before_headers(Duration::from_secs(5))
    ///     .notices(|notice, headers| match notice {
    ///         Notice::Retry { .. } if headers.get("accept-language").is_some_and(|value| value == "de") => {
    ///             Some("Wir versuchen es noch einmal.".to_owned())
    ///         }
    ///         Notice::Retry { .. } => Some("We try again.".to_owned()),
    ///         _ => None,
    ///     });
    /// let service = ServiceBuilder::new().layer(heartbeats).layer(RetryAfterBackoffLayer::new()).service(upstream);
    ///
    /// let request = Request::post("/v1/responses").header("accept", "text/event-stream").header("accept-language", "de");
    /// let request = request.header("idempotency-key", "1").body(Full::<Bytes>::default()).unwrap();
    /// let all = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    /// let notice = ": notice {\"type\":\"retry\",\"message\":\"Wir versuchen es noch einmal.\"}\n\n";
    /// assert_eq!(all, format!(": keepalive\n\n{notice}data: 42\n\n"));
    /// # }
    /// ```
    #[must_use]
    pub fn notices(mut self, text: impl Fn(&Notice, &HeaderMap) -> Option<String> + Send + Sync + 'static) -> Self {
        self.config.notices = Some(NoticeText::new(text));
        self
    }

    /// Reports heartbeats, ended streams and streams that the layer could not handle to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.emitter = Emitter::to(observer);
        self
    }
}

impl<S> Layer<S> for SseHeartbeatLayer {
    type Service = SseHeartbeat<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SseHeartbeat::new(inner, self.config.clone())
    }
}
