//! What is found of a stream.

use crate::proto::dialect::event::Event;

/// What a [`Framer`](super::Framer) finds.
#[derive(Debug)]
pub(in crate::proto::dialect) enum Frame<'a> {
    Event(Event<'a>),
    /// One that the stream has ended in, with all of its data.
    Unended(Event<'a>),
    /// Something that only shows that the peer is alive.
    KeepAlive,
    /// An event too large to be looked at.
    TooLarge,
    /// JSON that is no event: what is in an array beside objects.
    NoEvent,
}

/// An event, or that it was too large.
pub(super) fn event<'a>(name: &'a str, data: Option<&'a [u8]>, shortened: bool, misplaced: bool) -> Frame<'a> {
    data.map_or(Frame::TooLarge, |data| Frame::Event(Event { name, data, shortened, misplaced }))
}
