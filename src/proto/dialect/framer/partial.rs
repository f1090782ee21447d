//! The bytes of an event that is not whole yet.

use crate::proto::dialect::json::{JsonPosition, Shortener};

/// Bytes of an event that is not complete, bounded.
#[derive(Debug, Default)]
pub(in crate::proto::dialect) struct PartialEvent {
    raw: Vec<u8>,
    /// In place of `raw`, once that became too large.
    short: Option<Box<Shortener>>,
}

/// An event that is no larger is looked at as it is.
pub(in crate::proto::dialect) const MAX_WHOLE: usize = 64 * 1024;

// === impl PartialEvent ===

impl PartialEvent {
    pub(in crate::proto::dialect) fn push(&mut self, bytes: &[u8]) {
        if let Some(short) = &mut self.short {
            short.push(bytes);
        } else if self.raw.len() + bytes.len() <= MAX_WHOLE {
            self.raw.extend_from_slice(bytes);
        } else {
            let mut short = Box::<Shortener>::default();
            short.push(&std::mem::take(&mut self.raw));
            short.push(bytes);
            self.short = Some(short);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.raw.is_empty() && self.short.is_none()
    }

    pub(super) fn is_blank(&self) -> bool {
        self.raw.trim_ascii().is_empty() && self.short.is_none()
    }

    /// Whether a bracket or a string is open in what is held.
    pub(super) fn is_cut_json(&self) -> bool {
        if let Some(short) = &self.short {
            return short.is_open();
        }
        let mut position = JsonPosition::default();
        // Never closes: that depth is not reached.
        let _ = position.close(&self.raw, usize::MAX);
        position.is_open()
    }

    /// Shows what is held and whether its strings were cut, and forgets it.
    pub(in crate::proto::dialect) fn finish(&mut self, show: impl FnOnce(Option<&[u8]>, bool)) {
        match self.short.take() {
            Some(short) => show(short.kept(), true),
            None => show(Some(&self.raw), false),
        }
        self.raw.clear();
    }
}
