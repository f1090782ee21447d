//! The elements of one JSON array.

use super::frame::{Frame, event};
use super::partial::{MAX_WHOLE, PartialEvent};
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::json::JsonPosition;

#[derive(Debug, Default)]
pub(in crate::proto::dialect) struct ArrayFramer {
    state: Array,
    position: JsonPosition,
    element: PartialEvent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Array {
    /// Before the opening bracket.
    #[default]
    Before,
    /// Between two elements.
    Between,
    Element,
    Closed,
    /// It is not an array.
    Broken,
}

// === impl ArrayFramer ===

impl ArrayFramer {
    /// Whether the array has begun, or may still begin, and is not closed.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, Array::Closed | Array::Broken)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == Array::Closed
    }

    pub(super) fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
        let total = bytes.len();
        let mut start = 0;
        while let Some((first, rest)) = bytes.split_first() {
            match (self.state, first) {
                (Array::Element, _) => {
                    let Some(end) = self.position.close(bytes, 0) else {
                        self.element.push(bytes);
                        return start;
                    };
                    let (last, rest) = bytes.split_at(end);
                    if self.element.is_empty() && last.len() <= MAX_WHOLE {
                        found(Frame::Event(StreamEvent::new("", last)), start);
                    } else {
                        self.element.push(last);
                        self.element.finish(|data, shortened| found(event("", data, shortened, false), start));
                    }
                    (self.state, bytes) = (Array::Between, rest);
                }
                (Array::Between, b'{') => (self.state, self.position) = (Array::Element, JsonPosition::default()),
                (Array::Before, b'[') => (self.state, bytes) = (Array::Between, rest),
                (Array::Between, b']') => (self.state, bytes) = (Array::Closed, rest),
                (Array::Before | Array::Between | Array::Closed, b' ' | b'\n' | b'\r' | b'\t')
                | (Array::Between, b',') => bytes = rest,
                (Array::Broken, _) => return total,
                (Array::Before | Array::Between | Array::Closed, _) => {
                    self.state = Array::Broken;
                    found(Frame::NoEvent, start);
                }
            }
            start = total - bytes.len();
        }
        start
    }
}
