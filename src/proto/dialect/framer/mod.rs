//! Splits a stream into events, in chunks of any size.
//!
//! | File | Holds |
//! |---|---|
//! | `mod.rs` | one framer for all formats |
//! | `frame.rs` | its results |
//! | `event_stream.rs` | `text/event-stream` |
//! | `lines.rs` | one JSON value per line |
//! | `array.rs` | the elements of one JSON array |
//! | `partial.rs` | the bytes of an incomplete event |

mod array;
mod event_stream;
mod frame;
mod lines;
mod partial;
#[cfg(test)]
mod tests;

use self::array::ArrayFramer;
use self::event_stream::SseFramer;
pub(super) use self::frame::Frame;
pub(super) use self::partial::{MAX_WHOLE, PartialEvent};
use super::event::Framing;
use crate::proto::sse::lines::LineEnding;

/// Assembles events.
#[derive(Debug)]
pub(super) enum Framer {
    EventStream(Box<SseFramer>),
    Lines(PartialEvent),
    Array(ArrayFramer),
}

// === impl Framer ===

impl Framer {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::EventStream => Self::EventStream(Box::default()),
            Framing::Lines => Self::Lines(PartialEvent::default()),
            Framing::Array => Self::Array(ArrayFramer::default()),
        }
    }

    /// Reads `bytes`, and passes each result to `found` with its start in `bytes` (0 if that was earlier). Returns how
    /// many of the bytes belong to complete events.
    pub(super) fn read(&mut self, bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
        match self {
            Self::EventStream(framer) => framer.read(bytes, found),
            Self::Lines(line) => lines::read(line, bytes, found),
            Self::Array(framer) => framer.read(bytes, found),
        }
    }

    /// The stream has ended. Complete JSON needs no final line feed.
    pub(super) fn end(&mut self, found: &mut impl FnMut(Frame<'_>, usize)) {
        match self {
            Self::EventStream(framer) => framer.end(&mut |frame| found(frame, 0)),
            Self::Lines(line) => lines::end(line, found),
            Self::Array(_) => {}
        }
    }

    /// The line ending of an event stream that is between two events.
    #[inline]
    pub(super) fn between_events(&self) -> Option<LineEnding> {
        match self {
            Self::EventStream(framer) => framer.is_at_rest().then(|| framer.line_ending()),
            Self::Lines(_) | Self::Array(_) => None,
        }
    }

    /// Whether a line of an event stream sets an id.
    #[inline]
    pub(super) const fn has_ids(&self) -> bool {
        match self {
            Self::EventStream(framer) => framer.has_ids(),
            Self::Lines(_) | Self::Array(_) => false,
        }
    }

    pub(super) const fn line_ending(&self) -> LineEnding {
        match self {
            Self::EventStream(framer) => framer.line_ending(),
            Self::Lines(_) | Self::Array(_) => LineEnding::Lf,
        }
    }

    /// Whether the stream is inside an event, which would be lost if it ended here.
    pub(super) fn in_event(&self) -> bool {
        match self {
            Self::EventStream(framer) => framer.in_event(),
            Self::Lines(line) => !line.is_blank(),
            Self::Array(framer) => framer.is_open(),
        }
    }

    /// Whether the stream may end here: outside an event, and with its array closed.
    pub(super) fn may_end(&self) -> bool {
        match self {
            Self::EventStream(_) | Self::Lines(_) => !self.in_event(),
            Self::Array(framer) => framer.is_closed(),
        }
    }
}
