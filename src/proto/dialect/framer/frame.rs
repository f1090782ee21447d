//! The results of framing.

use crate::proto::dialect::event::StreamEvent;

/// A result of a [`Framer`](super::Framer).
#[derive(Debug)]
pub(in crate::proto::dialect) enum Frame<'a> {
    Event(StreamEvent<'a>),
    /// A complete event whose closing blank line is missing at the end of the stream.
    Unended(StreamEvent<'a>),
    /// A keep-alive.
    KeepAlive,
    /// An event that is too large to read.
    TooLarge,
    /// JSON that is not an event: array elements other than objects.
    NoEvent,
}

/// Returns an event, or that it was too large.
pub(super) fn event<'a>(name: &'a str, data: Option<&'a [u8]>, shortened: bool, misplaced: bool) -> Frame<'a> {
    data.map_or(Frame::TooLarge, |data| Frame::Event(StreamEvent { name, data, shortened, misplaced }))
}
