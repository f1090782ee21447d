use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::early::EarlySseHeartbeatLayer;
use super::frame::HeartbeatFrame;
use super::service::SseHeartbeat;
use crate::event::{Emitter, Observer};

/// Keeps `text/event-stream` responses alive through proxies, with a comment now and then.
///
/// A thinking model is silent for longer than a load balancer waits (nginx and AWS 60 s, Heroku 55). After `interval` of
/// silence one heartbeat goes out, and only where it is nothing to a reader: never within a line, before the LF of a
/// CRLF, with a blank line into an event, or into compressed bytes. If the upstream stops in the middle of a line,
/// nothing is sent, however long it takes.
///
/// # When to use it, and when not
///
/// On servers and gateways that answer with event streams. Where the head itself is late there is no stream yet: see
/// [`before_headers`](Self::before_headers). A stream that axum's `Sse` makes with its `KeepAlive` needs no second one.
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
/// Outermost, but for [`RejectionsAsErrorsLayer`](crate::RejectionsAsErrorsLayer): what it adds must not pass for a sign
/// of life of the upstream, nor be kept. Compression goes outside of it, and must flush each frame.
///
/// # What happens when
///
/// - *The upstream is silent*: after `interval` in which somebody waited for it, one heartbeat. A reader who does not
///   read gets none, and at most one when it comes back.
/// - *The limit of [`max_silence`](Self::max_silence) is hit*: the inner body is dropped at once; the body fails with
///   [`StreamSilent`](crate::error::StreamSilent), and then is at its end.
/// - *The caller drops the future or the body*: so is what is inside. Nothing is left behind.
/// - *The answer is no 2xx event stream, is for HEAD, or is 204, 205, 206, an upgrade or empty*: it passes.
/// - *It is compressed, has a `Content-Length`, or the request or the answer says `no-transform`*: it passes untouched,
///   with [`Event::Bypassed`](crate::Event::Bypassed) (as does an event stream that is a 206).
/// - *Otherwise*: `ETag`, `Accept-Ranges` and digests are removed from the head, and `X-Accel-Buffering: no` and
///   `Cache-Control: no-cache` added where there is none of that name. The length is unknown from then on.
/// - *A byte order mark comes behind a heartbeat*: it is taken off, for there it would be content.
/// - *Trailers*: are passed on, without the digests if anything was added. There is no heartbeat after them.
/// - *The request or the answer carries a [`HeartbeatFrame`]*: it counts, not the layer's; the answer's before the
///   request's.
///
/// # Cancel safety
///
/// Polling the body and going away loses nothing: what may be the beginning of a byte order mark is held in the body.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or
/// `StreamSilent`.
///
/// # Cost
///
/// A frame that is ready: one pass of the [`Scanner`](crate::proto::sse::Scanner) over its bytes; no clock, no timer, no
/// allocation, no copy. A frame that must be waited for: one reading of the clock. The first wait of a body allocates its
/// timer, which moves only when it fires, or when its instant comes nearer than it was. A heartbeat allocates nothing.
#[derive(Clone, Debug)]
pub struct SseHeartbeatLayer {
    config: Config,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    /// `None`: the layer is off.
    pub(super) interval: Option<Duration>,
    pub(super) max_silence: Option<Duration>,
    pub(super) frame: HeartbeatFrame,
    pub(super) error_events: bool,
    pub(super) emitter: Emitter,
}

/// The grain of tokio's timers. A stream with an interval of nothing would be one of nothing but heartbeats.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

// === impl SseHeartbeatLayer ===

impl SseHeartbeatLayer {
    /// The name of this layer in events.
    pub(super) const NAME: &'static str = "sse-heartbeat";

    /// A heartbeat after each `interval` of silence (1 ms at least). 15 s is well below what proxies wait for.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self::with(Some(interval.max(SHORTEST_INTERVAL)))
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(None)
    }

    fn with(interval: Option<Duration>) -> Self {
        Self { config: Config { interval, ..Config::disabled() } }
    }

    /// What a heartbeat looks like. Default: [`HeartbeatFrame::Comment`].
    #[must_use]
    pub fn frame(mut self, frame: HeartbeatFrame) -> Self {
        self.config.frame = frame;
        self
    }

    /// Ends a stream whose upstream has sent nothing for `limit`, so that heartbeats do not hide for ever that it is
    /// dead. Default: no limit.
    ///
    /// Any byte of the upstream counts, its own comments too: for those see
    /// [`IdleActivity::SseEvents`](crate::IdleActivity::SseEvents).
    #[must_use]
    pub fn max_silence(mut self, limit: Duration) -> Self {
        self.config.max_silence = Some(limit);
        self
    }

    /// Tells clients of a body that fails, in a last event that the SDKs of OpenAI and Anthropic raise:
    ///
    /// ```text
    /// event: error
    /// data: {"type":"error","error":{"type":"api_error","message":"the upstream failed in the middle of the stream"}}
    /// ```
    ///
    /// The type is `timeout_error` where a limit of this crate was hit, and the message then says which. The body still
    /// ends in its error, a moment later, so that nothing truncated looks whole. In the middle of an event there is no place
    /// for another, and only the error comes. Default: off.
    #[must_use]
    pub fn error_events(mut self, on: bool) -> Self {
        self.config.error_events = on;
        self
    }

    /// Begins the stream when there has been no answer for `after` (1 ms at least; [`Duration::MAX`] is never), for
    /// requests that ask for one: see [`EarlySseHeartbeatLayer`], which is this layer from then on.
    #[must_use]
    pub fn before_headers(self, after: Duration) -> EarlySseHeartbeatLayer {
        EarlySseHeartbeatLayer::new(self.config, after)
    }

    /// Tells `observer` of every heartbeat, every stream that was ended, and every one that could not be treated.
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

// === impl Config ===

impl Config {
    pub(super) fn disabled() -> Self {
        Self {
            interval: None,
            max_silence: None,
            frame: HeartbeatFrame::default(),
            error_events: false,
            emitter: Emitter::default(),
        }
    }
}
