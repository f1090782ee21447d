//! What of a stream is handed on, and what is withheld until its event is whole.

use bytes::{Bytes, BytesMut};

use super::NotResumed;

/// What was read of a block that is not whole yet.
#[derive(Default)]
pub(super) struct PartialBlock(BytesMut);

/// What is done with bytes that were read.
pub(crate) enum Followed {
    /// They are handed on as they are.
    All,
    /// This is handed on: what was withheld, and a part of them.
    Part(Bytes),
    /// This is handed on, and the stream is followed no longer.
    Aside(Bytes, Aside),
    /// It is not the rest of the stream. Nothing is handed on.
    Wrong(NotResumed),
}

/// Why a stream is followed no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// It is none that can be continued.
    NotResumable,
    /// An event is too large to be withheld.
    TooLarge,
}

/// An event that is larger is not withheld until it is whole.
pub(super) const MAX_EVENT: usize = 1024 * 1024;

// === impl PartialBlock ===

impl PartialBlock {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// Whether nothing is missing where the stream ends here: a comment that is cut is nothing.
    pub(super) fn may_be_last(&self) -> bool {
        self.0.trim_ascii().is_empty() || self.0.starts_with(b":")
    }

    pub(super) fn take(&mut self) -> Bytes {
        self.0.split().freeze()
    }

    /// What was withheld, and `data`.
    pub(super) fn join(&mut self, data: &Bytes) -> Bytes {
        if self.0.is_empty() {
            return data.clone();
        }
        let mut all = self.0.split();
        all.extend_from_slice(data);
        all.freeze()
    }

    /// Hands on what is ready, and what is withheld with it where that is too much: `hold` says whether as many bytes may be.
    pub(super) fn hand_on(&mut self, ready: Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        if self.0.len() <= MAX_EVENT && hold(self.0.len()) {
            return Followed::Part(ready);
        }
        let mut all = BytesMut::from(&ready[..]);
        all.extend_from_slice(&self.0.split());
        Followed::Aside(all.freeze(), Aside::TooLarge)
    }
}
