//! How a log gets more data.

use std::sync::Arc;

use super::part::BodyPart;
use crate::policy::broadcast::ReaderId;
use crate::rt::cancellation::Cancellation;

/// Polls the upstream when a reader has read everything that was recorded. A log without a driver is fed by a store.
pub(crate) trait Drive: Send + Sync {
    /// Polls the upstream, unless another reader does at the moment, or the upstream has not woken its waker since the
    /// last poll. The reader must have left its own waker with the log before.
    fn drive(&self, reader: Option<ReaderId>) -> Driven;

    /// Called when the last listener has left. `cancellation` tells, now or later, whether it left for good.
    fn on_abandoned(self: Arc<Self>, cancellation: Option<Cancellation>);

    /// Called when the call was stopped from outside: drops the upstream.
    fn on_stopped(&self);
}

/// The result of polling the upstream.
#[derive(Debug)]
pub(crate) enum Driven {
    /// No progress yet.
    Wait,
    /// The log has changed: read it again.
    Progress,
    /// The next part for this reader. It counts as read.
    Part(BodyPart),
}

/// The state that the task of an abandoned call sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// The call has a listener again, or has ended: the task is not needed.
    NotNeeded,
    /// The call has no listener. The number distinguishes one such time from another.
    Abandoned { abandon_count: u64 },
}
