//! Where a stream is at its server's cursor, and whether what came after a cut goes on behind it.

use super::NotResumed;
use super::order::EventOrder;
use crate::proto::resume::{Cursor, Mark, ResumeBy};
use crate::proto::sse::Block;

/// What was handed on of a stream, as its server counts it.
pub(super) struct Position {
    /// The server's cursor, if it has one.
    by: Option<ResumeBy>,
    order: EventOrder,
    /// The last event that was handed on is at the cursor.
    is_exact: bool,
    /// Bytes of whole blocks.
    bytes: u64,
}

/// What a block is that came after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The event behind the cursor.
    Next,
    /// An event that does not say where it is.
    Unmarked,
    NoEvent,
}

// === impl Position ===

impl Position {
    pub(super) fn new(by: Option<ResumeBy>) -> Self {
        Self { by, order: EventOrder::default(), is_exact: false, bytes: 0 }
    }

    /// How the server is asked for the rest.
    pub(super) fn by(&self) -> Option<&ResumeBy> {
        self.by.as_ref()
    }

    /// As many bytes were handed on.
    pub(super) fn pass(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// A block of the first answer is handed on.
    pub(super) fn note(&mut self, block: &Block<'_>) {
        self.is_exact &= block.data.is_none();
        if let Some(mark) = self.by.as_ref().and_then(|by| by.cursor.read(block)) {
            self.order.observe(mark);
            self.is_exact = true;
        }
    }

    /// A block came after a cut: the first one, where it has not `begun`. Fails where it is not behind the cursor.
    pub(super) fn follow(&mut self, block: &Block<'_>, begun: bool) -> Result<Step, NotResumed> {
        let cursor = self.by.as_ref().map_or(&Cursor::Bytes, |by| &by.cursor);
        let in_bytes = *cursor == Cursor::Bytes;
        if in_bytes && !begun && !block.begins_well {
            // It begins in the middle of a line.
            return Err(NotResumed::Contradicted);
        }
        if let Some(mark) = cursor.read(block) {
            self.order.follow(mark)?;
            self.is_exact = true;
            return Ok(Step::Next);
        }
        if cursor.is_unreadable(block) {
            return Err(NotResumed::Contradicted);
        }
        Ok(match block.data {
            None => Step::NoEvent,
            Some(_) if in_bytes => Step::Next,
            Some(_) => {
                self.is_exact = false;
                Step::Unmarked
            }
        })
    }

    /// The cursor behind what was handed on: `None` if the rest cannot be asked for from there.
    pub(super) fn last(&self) -> Option<Mark> {
        match self.by.as_ref()?.cursor {
            Cursor::Bytes => Some(Mark::of_bytes(self.bytes)),
            _ if self.is_exact => self.order.last().cloned(),
            _ => None,
        }
    }
}
