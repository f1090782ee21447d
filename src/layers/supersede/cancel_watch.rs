use std::sync::Arc;

use super::config::Config;
use crate::error::{BoxError, Superseded};
use crate::event::Event;
use crate::rt::cancellation::Cancellation;

/// Ends a body when its call is cancelled.
#[derive(Debug)]
pub struct CancelWatch {
    pub(super) cancellation: Cancellation,
    pub(super) config: Arc<Config>,
}

// === impl CancelWatch ===

impl CancelWatch {
    /// The error of the body.
    pub(super) fn superseded(&self) -> BoxError {
        self.config.emitter.emit(&Event::Superseded);
        Superseded::new().into()
    }
}
