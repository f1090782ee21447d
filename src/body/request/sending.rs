//! Whether an upstream has received the complete request.

use std::any::Any;

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;

use super::{CallBody, UploadWatch};

/// When the upstream has the complete request.
#[derive(Debug)]
pub(crate) enum Upload {
    /// When the inner service is called, or soon after.
    AtOnce,
    Watched(UploadWatch),
    /// This kind of body is not watched.
    Unknown,
}

// === impl Upload ===

impl Upload {
    /// Watches an unread body.
    #[inline]
    pub(crate) fn watch<B: Body + 'static>(body: &mut B) -> Self {
        if body.is_end_stream() {
            return Self::AtOnce;
        }
        let any: &mut dyn Any = body;
        if any.is::<Full<Bytes>>() {
            // In memory, as most `CallBody`s are.
            return Self::AtOnce;
        }
        match any.downcast_mut::<CallBody>() {
            Some(body) => body.watch_sending().map_or(Self::AtOnce, Self::Watched),
            None => Self::Unknown,
        }
    }

    /// Whether the upstream is known not to have the complete request. A dropped body counts as received.
    pub(crate) fn is_cut_short(&self) -> bool {
        matches!(self, Self::Watched(watch) if watch.has_failed() || watch.sent_since().is_none())
    }

    /// The number of bytes that the upstream has taken; `None` if not counted.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Watched(watch) => watch.bytes(),
            Self::AtOnce | Self::Unknown => None,
        }
    }
}
