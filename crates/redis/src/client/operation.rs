//! Reports of operations, for metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An operation that was sent to Redis, or skipped.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Operation {
    /// The script (`claim`, `vote` ..) or command (`publish` ..): one of about twenty names.
    pub name: &'static str,
    /// Its result.
    pub result: OperationResult,
    /// Its duration: how long a call that needs it waited.
    pub took: Duration,
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationResult {
    /// Redis answered.
    Answered,
    /// Redis answered with an error: out of memory, or no permission.
    Refused,
    /// No answer within [`patience`](crate::RedisOptions::patience).
    TimedOut,
    /// No connection, or it was lost.
    Lost,
    /// Not sent: Redis is known to be unreachable.
    Skipped,
}

/// The receiver of reports.
#[derive(Clone)]
pub(crate) struct Watcher(Arc<dyn Fn(&Operation) + Send + Sync>);

// === impl OperationResult ===

impl OperationResult {
    /// The result as a label: `answered`, `refused`, `timed_out`, `lost` or `skipped`.
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
