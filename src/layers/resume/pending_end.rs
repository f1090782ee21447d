//! The end that a stream gets if it is not continued.

use bytes::Bytes;
use http_body::Frame;

use crate::error::BoxError;

/// How the stream ended.
#[derive(Default)]
pub(super) enum PendingEnd {
    #[default]
    None,
    Error(BoxError),
    /// It closed too early without an error: with this data after the forwarded part.
    End(Bytes, Option<Frame<Bytes>>),
}

// === impl PendingEnd ===

impl PendingEnd {
    /// The bytes withheld until it is known whether the stream continues.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::End(rest, _) => rest.len(),
            Self::None | Self::Error(_) => 0,
        }
    }
}
