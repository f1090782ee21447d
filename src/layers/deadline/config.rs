use std::time::Duration;

use crate::event::Observers;
use crate::proto::deadline::DeadlineHeader;
use crate::rt::per_thread::PerThread;

/// The name of this layer in events.
pub(super) const NAME: &str = "deadline";

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) total: Duration,
    /// `None` instead of an empty list: sharing a list costs an atomic operation.
    pub(super) accept: Option<PerThread<[DeadlineHeader]>>,
    pub(super) propagate: Option<PerThread<[DeadlineHeader]>>,
    pub(super) reserve: Duration,
    pub(super) minimum: Duration,
    pub(super) observers: Observers,
}

// === impl Config ===

impl Config {
    /// Returns a copy for a new service.
    pub(super) fn for_service(&self) -> Self {
        let of = |headers: &Option<PerThread<_>>| headers.as_ref().map(PerThread::for_service);
        Self { accept: of(&self.accept), propagate: of(&self.propagate), ..self.clone() }
    }

    pub(super) fn accepted(&self) -> &[DeadlineHeader] {
        self.accept.as_deref().unwrap_or_default()
    }

    pub(super) fn propagated(&self) -> &[DeadlineHeader] {
        self.propagate.as_deref().unwrap_or_default()
    }
}
