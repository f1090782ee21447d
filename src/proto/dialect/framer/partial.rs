//! The bytes of an incomplete event.

use crate::proto::dialect::json::{JsonPosition, Shortener};

/// The bytes of an incomplete event, bounded.
#[derive(Debug, Default)]
pub(in crate::proto::dialect) struct PartialEvent {
    raw: Vec<u8>,
    /// Replaces `raw` once that became too large.
    short: Option<Box<Shortener>>,
}

/// Events up to this size are kept unchanged.
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

    /// Whether a bracket or a string is open in the held bytes.
    pub(super) fn is_cut_json(&self) -> bool {
        if let Some(short) = &self.short {
            return short.is_open();
        }
        let mut position = JsonPosition::default();
        // No value closes at that depth.
        let _ = position.close(&self.raw, usize::MAX);
        position.is_open()
    }

    /// The held bytes, if none was cut.
    pub(in crate::proto::dialect) fn whole(&self) -> Option<&[u8]> {
        self.short.is_none().then_some(self.raw.as_slice())
    }

    /// Passes the held bytes to `show`, with whether their strings were cut, and drops them.
    pub(in crate::proto::dialect) fn finish(&mut self, show: impl FnOnce(Option<&[u8]>, bool)) {
        match self.short.take() {
            Some(short) => show(short.kept(), true),
            None => show(Some(&self.raw), false),
        }
        self.raw.clear();
    }
}
