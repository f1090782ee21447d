//! The reader's position in an event stream.

use http::Extensions;

use crate::body::ending::Ending;
use crate::proto::sse::Scanner;

/// The position in a stream for an insertion.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamPosition<'a> {
    pub(super) scanner: &'a Scanner,
    /// From a layer inside that tracks ids: then `scanner` does not.
    pub(super) ids: Option<&'a Ending>,
}

// === impl StreamPosition ===

impl StreamPosition<'_> {
    /// Whether the stream has set an id, or may have.
    pub(super) fn has_ids(self) -> bool {
        self.scanner.id_seen() || self.ids.is_some_and(|ids| ids.may_have_ids() != Some(false))
    }
}

/// The [`Ending`] of an answer with these extensions, if a layer inside tracks ids in its stream.
pub(super) fn followed(answer: &Extensions) -> Option<Ending> {
    answer.get().filter(|ending: &&Ending| ending.may_have_ids().is_some()).cloned()
}
