//! Streams the layers' events to the page and other viewers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tower_buttress::{CallInfo, Event};

use super::answer_body::AnswerBody;
use super::calls::CallsInFlight;
use super::shutdown::OpenGuard;

/// Sends events to viewers, and records them on their calls.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    viewers: broadcast::Sender<Arc<str>>,
    pub(crate) calls: CallsInFlight,
}

/// Events buffered per viewer. A slower viewer misses some.
const KEPT: usize = 64;
/// The default interval of the stack's heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);

// === impl Events ===

impl Events {
    pub(crate) fn new() -> Self {
        Self { viewers: broadcast::Sender::new(KEPT), calls: CallsInFlight::default() }
    }

    pub(crate) fn log(&self, event: &Event, call: Option<&CallInfo>) {
        if let Some(call) = call {
            self.calls.log(event, call);
        }
        if self.viewers.receiver_count() == 0 {
            return;
        }
        let id = call.map(CallInfo::id);
        let data = json!({"event": event.name(), "detail": event.detail(), "text": event.to_string(), "call": id});
        // Fails when there is no viewer, which is fine.
        let _ = self.viewers.send(format!("data: {data}\n\n").into());
    }

    /// Streams all events from now on, until the gateway stops.
    pub(crate) fn stream(&self, mut open: OpenGuard) -> Response<AnswerBody> {
        let opening = stream::iter([Bytes::from_static(b": here we go\n\n")]);
        let events = stream::unfold(self.viewers.subscribe(), |mut events| async {
            let next = match tokio::time::timeout(HEARTBEAT, events.recv()).await {
                Ok(Ok(event)) => Bytes::copy_from_slice(event.as_bytes()),
                Ok(Err(RecvError::Lagged(_))) => Bytes::from_static(b": some were missed\n\n"),
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => Bytes::from_static(b": keepalive\n\n"),
            };
            Some((next, events))
        });
        let events = opening.chain(events).take_until(async move { open.ending().await });
        let mut response = Response::new(StreamBody::new(events.map(|data| Ok(Frame::data(data)))).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}
