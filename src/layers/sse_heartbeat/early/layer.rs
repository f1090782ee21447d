use std::time::Duration;

use tower_layer::Layer;

use super::super::layer::{Config, SHORTEST_INTERVAL};
use super::service::EarlySseHeartbeat;

/// [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) that does not wait for the answer's head: made by
/// [`SseHeartbeatLayer::before_headers`](crate::SseHeartbeatLayer::before_headers).
///
/// A [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) withholds the head until there is data, and retries and
/// fallbacks take their time too: there is no stream yet that could be kept alive. This layer begins one. When the
/// service inside has not answered after a given time, it sends `200`, `text/event-stream` and a heartbeat, and goes on
/// with heartbeats until the answer is there. The response then carries [`HeadersSentEarly`](crate::HeadersSentEarly).
///
/// # When to use it, and when not
///
/// Where callers wait longer for an answer to begin than the proxies between allow, and where an error inside the stream
/// is as good to them as a status: once begun, the answer cannot be a 429 or a 503 any more. With answers that begin
/// within the patience of every proxy, leave it out.
///
/// # For which requests
///
/// Those whose `Accept` names `text/event-stream`, or that carry [`ExpectsEventStream`](crate::ExpectsEventStream) in
/// their extensions. Not HEAD, and none that says `Cache-Control: no-transform`. From these, `Accept-Encoding` is taken
/// off before they go on: an answer that is compressed could not follow. All others are treated as by
/// [`SseHeartbeatLayer`](crate::SseHeartbeatLayer).
///
/// # Example
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
/// let request = Request::get("/").header("accept", "text/event-stream").body(()).unwrap();
/// let response = service.oneshot(request).await.unwrap();
/// assert_eq!((response.status().as_u16(), start.elapsed().as_secs()), (200, 10));
///
/// // At 10, 25 and 40 s, which is when the answer comes too.
/// let all = response.into_body().collect().await.unwrap().to_bytes();
/// assert_eq!(all, ": keepalive\n\n: keepalive\n\ndata: 42\n\n");
/// # }
/// ```
///
/// # Place in the stack
///
/// As [`SseHeartbeatLayer`](crate::SseHeartbeatLayer). What is inside, retries and fallbacks too, runs on inside the body.
///
/// # What happens when
///
/// - *The answer is there in time*: everything is as with [`SseHeartbeatLayer`](crate::SseHeartbeatLayer).
/// - *It comes later, and is a 2xx event stream*: its body follows. Of its head nothing can be sent any more.
/// - *It is anything else, a refusal of our own layers too*: an `event: error` in the form of
///   [`error_events`](crate::SseHeartbeatLayer::error_events), and then the body fails, with the
///   [`Rejection`](crate::Rejection) or [`UnexpectedResponse`](crate::error::UnexpectedResponse). Never a clean end.
/// - *There is none, but an error*: the same, with that error.
/// - *The limit of [`max_silence`](crate::SseHeartbeatLayer::max_silence) is hit*: the same, and the call is dropped.
/// - *The caller leaves*: the call is dropped with the body.
///
/// # Cancel safety
///
/// Dropping the future or the body drops the call.
///
/// # Errors
///
/// Before the stream has begun, the service's own.
///
/// # Cost
///
/// One allocation for each call that may begin early: the inner future's box, which moves into the body.
#[derive(Clone, Debug)]
pub struct EarlySseHeartbeatLayer {
    pub(super) config: Config,
    pub(super) after: Duration,
}

// === impl EarlySseHeartbeatLayer ===

impl EarlySseHeartbeatLayer {
    pub(in super::super) fn new(config: Config, after: Duration) -> Self {
        Self { config, after: after.max(SHORTEST_INTERVAL) }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new(Config::disabled(), Duration::MAX)
    }
}

impl<S> Layer<S> for EarlySseHeartbeatLayer {
    type Service = EarlySseHeartbeat<S>;

    fn layer(&self, inner: S) -> Self::Service {
        EarlySseHeartbeat::new(inner, self.config.clone(), self.after)
    }
}
