//! Messages of the lease and the inbox to the task of a call.

use tower_buttress::store::{AnswerOffer, MemoryLease, Retention};

use super::settling::Undecided;

#[derive(Debug)]
pub(super) enum Update {
    /// The upstream has answered with a 2xx.
    Accepted,
    /// The layer will not keep the answer: free the key.
    Free,
    /// The answer ended whole, and the layer keeps it.
    Keep(Box<Keep>),
    /// The layer has dropped the lease.
    Over,
    /// Callers may come back to the answer.
    Offer(Box<AnswerOffer>),
    /// The answer has ended, and callers may come back for a while.
    Ended,
    /// Callers may no longer come back.
    Withdraw,
    /// Redis may have lost the tokens.
    OfferAgain,
    /// A caller of another process stops the call.
    Stop,
}

#[derive(Debug)]
pub(super) struct Keep {
    pub(super) memory: MemoryLease,
    pub(super) retention: Retention,
    /// Dropped when Redis has decided whether to keep the answer.
    pub(super) undecided: Undecided,
}
