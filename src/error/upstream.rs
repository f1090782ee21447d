//! What is wrong with the answer of an LLM API, found by [`StreamGuardLayer`](crate::StreamGuardLayer).

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::Rounded;
use crate::policy::verdict::Verdict;
use crate::proto::dialect::{Kind, StreamError};
use crate::proto::retry_after::RetryAfter;
use crate::proto::sse::LineEnding;

/// An error that the upstream told of in the body of its answer: in that of a 4xx or 5xx, in that of a 200, or in the middle of
/// a stream.
///
/// It is the error of a body that it ended; the [source](std::error::Error::source) of a refusal
/// ([`UpstreamFailed`](crate::RejectionKind::UpstreamFailed)); and in the extensions of a 4xx or 5xx whose body was read.
/// Its message is the upstream's, and may echo parts of the request: neither `Display` nor `Debug` shows it, nor a code or type
/// that is none of those that providers are known to send.
#[derive(Clone)]
pub struct UpstreamError {
    status: StatusCode,
    verdict: Verdict,
    code: Option<String>,
    type_name: Option<String>,
    /// The code or the type, where it is one that providers are known to send.
    known_name: Option<&'static str>,
    message: String,
    retry_after: Option<RetryAfter>,
    frame: Bytes,
}

/// The stream ended cleanly, and the model had not said how its answer ended, or it ended inside of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamTruncated {
    kind: Option<Kind>,
    sequence: u64,
}

/// The upstream sent signs of life, and nothing of an answer, for longer than
/// [`StreamGuardLayer::first_content`](crate::StreamGuardLayer::first_content) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirstContentElapsed {
    /// The time that was allowed.
    pub after: Duration,
}

// === impl UpstreamError ===

impl UpstreamError {
    /// An error that has this status, or would have had it if it had come in time, and what it means.
    #[must_use]
    pub const fn new(status: StatusCode, verdict: Verdict) -> Self {
        Self {
            status,
            verdict,
            code: None,
            type_name: None,
            known_name: None,
            message: String::new(),
            retry_after: None,
            frame: Bytes::new(),
        }
    }

    /// Adds its code and its type, as the upstream names them.
    #[must_use]
    pub fn with_names(mut self, code: Option<&str>, type_name: Option<&str>) -> Self {
        self.code = code.map(str::to_owned);
        self.type_name = type_name.map(str::to_owned);
        self
    }

    /// Adds which of its names may be shown.
    #[cfg(feature = "llm")]
    pub(crate) const fn with_known_name(mut self, name: Option<&'static str>) -> Self {
        self.known_name = name;
        self
    }

    /// Adds the upstream's message to people.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        message.clone_into(&mut self.message);
        self
    }

    /// Adds when the upstream asked to be tried again.
    #[must_use]
    pub const fn with_retry_after(mut self, retry_after: Option<RetryAfter>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Adds the event that tells the caller of it.
    #[must_use]
    pub fn with_frame(mut self, frame: impl Into<Bytes>) -> Self {
        self.frame = frame.into();
        self
    }

    /// The status that the error has, or would have had if it had come in time.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Its code, as the upstream names it: `"insufficient_quota"`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Its type, as the upstream names it: `"overloaded_error"`.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.type_name.as_deref()
    }

    /// The upstream's message to people, at most 1 KiB.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What it means.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When the upstream asked to be tried again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        self.retry_after
    }

    /// The event that tells the caller of it, in the form that the dialect's official clients raise: the upstream's own, where it
    /// has that form. Empty where the error did not come in a stream.
    #[must_use]
    pub const fn frame(&self) -> &Bytes {
        &self.frame
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream told of an error in its answer ({}", self.status.as_u16())?;
        if let Some(name) = self.known_name {
            write!(f, ", {name}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamError")
            .field("status", &self.status)
            .field("name", &self.known_name)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl Error for UpstreamError {}

// === impl StreamTruncated ===

impl StreamTruncated {
    /// The code under which callers are told of it.
    pub const CODE: &'static str = "stream_truncated";

    /// A stream of this dialect, and in Responses the sequence number that comes next.
    #[must_use]
    pub const fn new(kind: Option<Kind>, sequence: u64) -> Self {
        Self { kind, sequence }
    }

    /// The event that tells the caller of it.
    #[must_use]
    pub fn frame(&self, ending: LineEnding) -> String {
        self.described().frame(self.kind, ending)
    }

    /// The same as the JSON body of an answer that is an error.
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
    /// An upstream that sent nothing of its answer for `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }

    /// The event that tells the caller of it, in a dialect; in Responses with the sequence number that comes next.
    #[must_use]
    pub fn frame(&self, kind: Option<Kind>, sequence: u64, ending: LineEnding) -> String {
        let message = format!("The upstream sent nothing of its answer for {}.", Rounded(self.after));
        StreamError::of_status(504).message(message).sequence(sequence).frame(kind, ending)
    }
}

impl fmt::Display for FirstContentElapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream sent nothing of its answer for {}", Rounded(self.after))
    }
}

impl Error for FirstContentElapsed {}
