use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;

use crate::call::{CallInfo, Memory, Model};
use crate::event::Observers;

/// The name of this layer in events.
pub(super) const NAME: &str = "inspect-request";

pub(super) type Inspect = Arc<dyn Fn(&mut Parts, &Bytes) + Send + Sync>;
pub(super) type Filter = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) inspect: Inspect,
    pub(super) filter: Filter,
    pub(super) max_body_bytes: usize,
    pub(super) memory: Memory,
    pub(super) read_timeout: Duration,
    pub(super) observers: Observers,
}

// === impl Config ===

impl Config {
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
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("observers", &self.observers)
            .finish_non_exhaustive()
    }
}
