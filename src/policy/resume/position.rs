//! The position of a stream at its server's cursor, and the check that the rest continues there.

use super::NotResumed;
use super::order::EventOrder;
use crate::proto::resume::{Cursor, Mark, ResumeBy};
use crate::proto::sse::Block;

/// The forwarded part of a stream, as its server counts it.
pub(super) struct Position {
    /// The server's cursor, if it has one.
    by: Option<ResumeBy>,
    order: EventOrder,
    /// Whether the last forwarded event is at the cursor.
    is_exact: bool,
    /// The bytes of complete blocks.
    bytes: u64,
}

/// The kind of a block after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// The event behind the cursor.
    Next,
    /// An event without a cursor.
    Unmarked,
    NoEvent,
}

// === impl Position ===

impl Position {
    pub(super) fn new(by: Option<ResumeBy>) -> Self {
        Self { by, order: EventOrder::default(), is_exact: false, bytes: 0 }
    }

    /// How to ask the server for the rest.
    pub(super) fn by(&self) -> Option<&ResumeBy> {
        self.by.as_ref()
    }

    /// Counts forwarded bytes.
    pub(super) fn pass(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Notes a forwarded block of the first answer.
    pub(super) fn note(&mut self, block: &Block<'_>) {
        self.is_exact &= block.data.is_none();
        if let Some(mark) = self.by.as_ref().and_then(|by| by.cursor.read(block)) {
            self.order.observe(mark);
            self.is_exact = true;
        }
    }

    /// Checks a block after a cut; it is the first one unless `begun`. Fails if it does not follow the cursor.
    pub(super) fn follow(&mut self, block: &Block<'_>, begun: bool) -> Result<BlockKind, NotResumed> {
        let cursor = self.by.as_ref().map_or(&Cursor::Bytes, |by| &by.cursor);
        let in_bytes = *cursor == Cursor::Bytes;
        if in_bytes && !begun && !block.begins_well {
            // It begins in the middle of a line.
            return Err(NotResumed::Contradicted);
        }
        if let Some(mark) = cursor.read(block) {
            self.order.follow(mark)?;
            self.is_exact = true;
            return Ok(BlockKind::Next);
        }
        if cursor.is_unreadable(block) {
            return Err(NotResumed::Contradicted);
        }
        Ok(match block.data {
            None => BlockKind::NoEvent,
            Some(_) if in_bytes => BlockKind::Next,
            Some(_) => {
                self.is_exact = false;
                BlockKind::Unmarked
            }
        })
    }

    /// The cursor after the forwarded part: `None` if the rest cannot be requested from there.
    pub(super) fn last(&self) -> Option<Mark> {
        match self.by.as_ref()?.cursor {
            Cursor::Bytes => Some(Mark::of_bytes(self.bytes)),
            _ if self.is_exact => self.order.last().cloned(),
            _ => None,
        }
    }
}
