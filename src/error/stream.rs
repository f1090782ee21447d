//! The errors that [`StreamGuardLayer`](crate::StreamGuardLayer) finds in the answers of LLM APIs.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::Rounded;
use crate::proto::dialect::{Kind, StreamError};
use crate::proto::sse::LineEnding;

/// The stream closed without an error before the model had said how its answer ends, or inside an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamTruncated {
    kind: Option<Kind>,
    sequence: u64,
}

/// The upstream sent signs of life, but no content, for longer than
/// [`StreamGuardLayer::first_content`](crate::StreamGuardLayer::first_content) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirstContentElapsed {
    /// The time that was allowed.
    pub after: Duration,
}

// === impl StreamTruncated ===

impl StreamTruncated {
    /// The error code that callers get.
    pub const CODE: &'static str = "stream_truncated";

    /// A stream of this dialect; `sequence` is the next sequence number, in Responses.
    #[must_use]
    pub const fn new(kind: Option<Kind>, sequence: u64) -> Self {
        Self { kind, sequence }
    }

    /// The event that reports the error to the caller.
    #[must_use]
    pub fn frame(&self, ending: LineEnding) -> String {
        self.described().frame(self.kind, ending)
    }

    /// The same as a JSON body, for an answer with an error status.
    #[must_use]
    pub fn body(&self) -> String {
        self.described().body(self.kind)
    }

    fn described(&self) -> StreamError<'static> {
        StreamError::of_status(502)
            .code(Self::CODE)
            .message("The upstream's answer ended before it was complete.")
            .sequence(self.sequence)
    }
}

impl fmt::Display for StreamTruncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream's answer ended before it was complete")
    }
}

impl Error for StreamTruncated {}

// === impl FirstContentElapsed ===

impl FirstContentElapsed {
    /// An upstream that sent no content for `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }

    /// The event that reports the error to the caller, in a dialect. `sequence` is the next sequence number, in
    /// Responses.
    #[must_use]
    pub fn frame(&self, kind: Option<Kind>, sequence: u64, ending: LineEnding) -> String {
        let message = format!("The upstream sent no content for {}.", Rounded(self.after));
        StreamError::of_status(504).message(message).sequence(sequence).frame(kind, ending)
    }
}

impl fmt::Display for FirstContentElapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream sent no content for {}", Rounded(self.after))
    }
}

impl Error for FirstContentElapsed {}
