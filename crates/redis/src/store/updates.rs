//! What the lease and the inbox of a process tell the task of a call.

use tower_buttress::store::{AnswerOffer, MemoryLease, Retention};

use super::settling::Undecided;

#[derive(Debug)]
pub(super) enum Update {
    /// The layer will not keep the answer: the key is to be freed.
    Free,
    /// The answer has ended whole, and the layer keeps it.
    Keep(Box<Keep>),
    /// The layer has dropped the lease.
    Over,
    /// Callers may come back to the answer.
    Offer(Box<AnswerOffer>),
    /// The answer has ended, and callers may come back to it for a while.
    Ended,
    /// Callers may not come back any more.
    Withdraw,
    /// Redis may have forgotten the tokens by which callers come back.
    OfferAgain,
    /// A caller of another process stops the call.
    Stop,
}

#[derive(Debug)]
pub(super) struct Keep {
    pub(super) memory: MemoryLease,
    pub(super) retention: Retention,
    /// Dropped when it is known whether Redis keeps the answer.
    pub(super) undecided: Undecided,
}
