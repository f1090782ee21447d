//! What is told of each operation, for figures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An operation that Redis was asked for, or would have been.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Operation {
    /// The script (`claim`, `vote` ..) or the command (`publish` ..). One of some twenty.
    pub name: &'static str,
    /// What became of it.
    pub result: OperationResult,
    /// How long it took: what a call that needs it waited.
    pub took: Duration,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationResult {
    /// Redis answered.
    Answered,
    /// Redis answered with an error: it has no memory left, or no permission was given.
    Refused,
    /// No answer within [`patience`](crate::RedisOptions::patience).
    TimedOut,
    /// There was no connection, or it was lost.
    Lost,
    /// It was not sent: Redis is known to be unreachable.
    Skipped,
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Watcher(Arc<dyn Fn(&Operation) + Send + Sync>);

// === impl OperationResult ===

impl OperationResult {
    /// Its name, as for a label: `answered`, `refused`, `timed_out`, `lost` or `skipped`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for OperationResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Watcher ===

impl Watcher {
    pub(crate) fn new(watch: impl Fn(&Operation) + Send + Sync + 'static) -> Self {
        Self(Arc::new(watch))
    }

    pub(crate) fn on_operation(&self, operation: &Operation) {
        (self.0)(operation);
    }
}
