use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::UPGRADE;
use http::request::Parts;

use crate::call::{CallInfo, Memory, Model};
use crate::event::Observers;
use crate::rejection::RejectionFormat;

/// The name of this layer in events.
pub(super) const NAME: &str = "inspect-request";

pub(super) type Inspect = Arc<dyn Fn(&mut Parts, &Bytes) + Send + Sync>;
pub(super) type Filter = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// The settings.
#[derive(Clone)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) inspect: Inspect,
    pub(super) filter: Filter,
    /// Other requests are read first too, without the closure.
    pub(super) read_all: bool,
    pub(super) max_body_bytes: usize,
    pub(super) memory: Memory,
    pub(super) read_timeout: Duration,
    pub(super) observers: Observers,
}

// === impl Config ===

impl Config {
    /// Whether the closure sees a request with this head.
    pub(super) fn shows(&self, head: &Parts) -> bool {
        self.enabled && (self.filter)(head)
    }

    /// Whether the layer reads the request without showing it. A call in both directions would wait for its own answer.
    pub(super) fn reads(&self, head: &Parts) -> bool {
        self.read_all
            && head.method != Method::CONNECT
            && !head.headers.contains_key(UPGRADE)
            && RejectionFormat::of(&head.headers) == RejectionFormat::Http
    }

    pub(super) fn look(&self, head: &mut Parts, data: &Bytes) {
        (self.inspect)(head, data);
        if let (Some(call), Some(model)) = (CallInfo::in_extensions(&head.extensions), head.extensions.get::<Model>()) {
            call.set_model(model);
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("read_all", &self.read_all)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("observers", &self.observers)
            .finish_non_exhaustive()
    }
}
