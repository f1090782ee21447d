//! The parts of an event.

use crate::proto::dialect::fact::Channel;

/// The role of a key's value in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto::dialect) enum ValueRole {
    /// It determines the event's meaning, so it must be equal.
    Literal,
    /// It may be anything.
    Any,
    /// The text of the delta.
    Text,
    /// Tokens of the request.
    Input,
    /// Tokens of the answer; several are summed.
    Output,
    /// The number of the event in its stream.
    Sequence,
}

/// The only delta of a parsed event.
#[derive(Debug)]
pub(in crate::proto::dialect) struct Delta {
    pub(in crate::proto::dialect) choice: u32,
    pub(in crate::proto::dialect) channel: Channel,
    pub(in crate::proto::dialect) text: String,
}
