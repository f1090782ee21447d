//! Splits a stream into the part to forward and the incomplete event to withhold.

use bytes::{Bytes, BytesMut};

use super::NotResumed;

/// The data of an incomplete block.
#[derive(Default)]
pub(super) struct PartialBlock(BytesMut);

/// The decision on data that was read.
pub(crate) enum Followed {
    /// Forward the data unchanged.
    All,
    /// Forward this: withheld data, and a part of the new data.
    Part(Bytes),
    /// Forward this, and stop following the stream.
    Aside(Bytes, Aside),
    /// It is not the rest of the stream. Forward nothing.
    Wrong(NotResumed),
}

/// Why a stream is no longer followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// It cannot be continued.
    NotResumable,
    /// An event is too large to withhold.
    TooLarge,
}

/// The largest event that is withheld until it is complete.
pub(super) const MAX_EVENT: usize = 1024 * 1024;

// === impl PartialBlock ===

impl PartialBlock {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// Whether the stream may end here: an incomplete comment does not matter.
    pub(super) fn may_be_last(&self) -> bool {
        self.0.trim_ascii().is_empty() || self.0.starts_with(b":")
    }

    pub(super) fn take(&mut self) -> Bytes {
        self.0.split().freeze()
    }

    /// Returns the withheld data followed by `data`.
    pub(super) fn join(&mut self, data: &Bytes) -> Bytes {
        if self.0.is_empty() {
            return data.clone();
        }
        let mut all = self.0.split();
        all.extend_from_slice(data);
        all.freeze()
    }

    /// Forwards the ready part, and the withheld part too if `hold` does not permit that many bytes.
    pub(super) fn release(&mut self, ready: Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        if self.0.len() <= MAX_EVENT && hold(self.0.len()) {
            return Followed::Part(ready);
        }
        let mut all = BytesMut::from(&ready[..]);
        all.extend_from_slice(&self.0.split());
        Followed::Aside(all.freeze(), Aside::TooLarge)
    }
}
