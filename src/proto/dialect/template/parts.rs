//! What the parts of an event are.

use crate::proto::dialect::fact::Channel;

/// What the value of a key is to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto::dialect) enum ValueRole {
    /// It decides what the event says, so it must be the same.
    Literal,
    /// It may be anything.
    Any,
    /// The text of the delta.
    Text,
    /// Tokens of the request.
    Input,
    /// Tokens of the answer: if there are several, their sum.
    Output,
    /// The number of the event in its stream.
    Sequence,
}

/// The only delta of an event that was parsed.
#[derive(Debug)]
pub(in crate::proto::dialect) struct Delta {
    pub(in crate::proto::dialect) choice: u32,
    pub(in crate::proto::dialect) channel: Channel,
    pub(in crate::proto::dialect) text: String,
}
