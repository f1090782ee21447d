//! What the caller is told where its stream does not go on.

use bytes::Bytes;
use http_body::Frame;

use crate::error::BoxError;

/// What became of the stream.
#[derive(Default)]
pub(super) enum PendingEnd {
    #[default]
    None,
    Error(BoxError),
    /// It ended cleanly, and too early: with this behind what was handed on.
    End(Bytes, Option<Frame<Bytes>>),
}

// === impl PendingEnd ===

impl PendingEnd {
    /// Bytes that are withheld until it is known whether the stream goes on.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::End(rest, _) => rest.len(),
            Self::None | Self::Error(_) => 0,
        }
    }
}
