//! The settings of the layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::call::Notice;
use crate::event::Emitter;
use crate::policy::heartbeat_frame::HeartbeatFrame;

/// The name of this layer in events.
pub(super) const NAME: &str = "sse-heartbeat";

/// The resolution of tokio's timers. With an interval of zero, a stream would consist of heartbeats only.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// `None`: the layer is off.
    pub(super) interval: Option<Duration>,
    pub(super) max_silence: Option<Duration>,
    /// `None`: never.
    pub(super) before_headers: Option<Duration>,
    /// Whether `Prefer: respond-async` may be answered with a 202; `None`: not set.
    pub(super) respond_async: Option<bool>,
    /// Whether a head that is sent early forbids the caller to retry; `None`: not set.
    pub(super) mark_exhausted: Option<bool>,
    pub(super) frame: HeartbeatFrame,
    pub(super) error_events: bool,
    /// `None`: no notices.
    pub(super) notices: Option<NoticeText>,
    pub(super) emitter: Emitter,
}

/// The operator's texts.
#[derive(Clone)]
pub(super) struct NoticeText(pub(super) Arc<NoticeFn>);

pub(super) type NoticeFn = dyn Fn(&Notice, &HeaderMap) -> Option<String> + Send + Sync;

// === impl Config ===

impl Config {
    pub(super) fn disabled() -> Self {
        Self {
            interval: None,
            max_silence: None,
            before_headers: None,
            respond_async: None,
            mark_exhausted: None,
            frame: HeartbeatFrame::default(),
            error_events: false,
            notices: None,
            emitter: Emitter::default(),
        }
    }
}

// === impl NoticeText ===

impl NoticeText {
    pub(super) fn new(text: impl Fn(&Notice, &HeaderMap) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(text))
    }
}

impl fmt::Debug for NoticeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoticeText")
    }
}
