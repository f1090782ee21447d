//! How a log asks for more.

use std::sync::Arc;

use super::part::BodyPart;
use crate::policy::broadcast::ReaderId;
use crate::rt::cancellation::Cancellation;

/// Polls the upstream when a reader has read everything that was recorded. A log that has none is fed by a store.
pub(crate) trait Drive: Send + Sync {
    /// Polls the upstream, unless another reader does at the moment, or it has not woken its waker since the last time. The
    /// reader's own waker must have been left with the log before.
    fn drive(&self, reader: Option<ReaderId>) -> Driven;

    /// The last listener has left. `cancellation`: says, now or later, that it left for good.
    fn on_abandoned(self: Arc<Self>, cancellation: Option<Cancellation>);

    /// The call was ended from outside: the upstream is to be dropped.
    fn on_stopped(&self);
}

/// What polling the upstream led to.
#[derive(Debug)]
pub(crate) enum Driven {
    /// Nothing yet.
    Wait,
    /// Something: look again.
    Progress,
    /// The part that this reader reads next. It counts as read.
    Part(BodyPart),
}

/// What the task that keeps an abandoned call going sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// The call has a listener again, or has ended: the task is not needed.
    NotNeeded,
    /// The call has no listener. The number tells one such time from another.
    Abandoned { abandon_count: u64 },
}
