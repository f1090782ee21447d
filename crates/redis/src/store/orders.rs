//! What the task of a call is told.

use tower_buttress::store::{AnswerOffer, MemoryLease, Retention};

use super::settling::Undecided;

#[derive(Debug)]
pub(super) enum Order {
    /// The key is free: the answer will not be kept.
    Free,
    /// The answer has ended, and is whole.
    Keep(Box<Keep>),
    /// The lease is gone.
    Over,
    /// Callers may come back to the answer.
    Offer(Box<AnswerOffer>),
    /// The answer has ended, and callers may come back to it for a while.
    Ended,
    /// They may not any more.
    Withdraw,
    /// Redis may have forgotten that they may.
    OfferAgain,
    /// A caller of another process ends the call.
    Stop,
}

#[derive(Debug)]
pub(super) struct Keep {
    pub(super) memory: MemoryLease,
    pub(super) retention: Retention,
    /// Until it is known what becomes of it.
    pub(super) undecided: Undecided,
}
