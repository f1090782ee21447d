//! The error that an upstream reports, with its meaning.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use http::StatusCode;

use super::verdict::Verdict;
use crate::proto::retry_after::RetryAfter;

/// An error that the upstream reported in the body of its answer: of a 4xx or 5xx, of a 200, or in the middle of a
/// stream.
///
/// A body that it ended fails with it. It is the [source](std::error::Error::source) of a refusal
/// ([`UpstreamFailed`](crate::RejectionKind::UpstreamFailed)), and in the extensions of a 4xx or 5xx whose body was read.
/// The message is the upstream's and may echo parts of the request: neither `Display` nor `Debug` shows it. They show a
/// code or type only if providers are known to send it.
#[derive(Clone)]
pub struct UpstreamError {
    status: StatusCode,
    verdict: Verdict,
    code: Option<String>,
    type_name: Option<String>,
    /// The code or the type, if providers are known to send it.
    known_name: Option<&'static str>,
    message: String,
    retry_after: Option<RetryAfter>,
    frame: Bytes,
}

// === impl UpstreamError ===

impl UpstreamError {
    /// An error with this status, or the status it would have had before the head was sent, and its meaning.
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

    /// Adds the name that may be shown.
    #[cfg(feature = "llm")]
    pub(crate) const fn with_known_name(mut self, name: Option<&'static str>) -> Self {
        self.known_name = name;
        self
    }

    /// Adds the upstream's message for people.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        message.clone_into(&mut self.message);
        self
    }

    /// Adds when the upstream wants to be tried again.
    #[must_use]
    pub const fn with_retry_after(mut self, retry_after: Option<RetryAfter>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Adds the event that reports the error to the caller.
    #[must_use]
    pub fn with_frame(mut self, frame: impl Into<Bytes>) -> Self {
        self.frame = frame.into();
        self
    }

    /// The status of the error, or the status it would have had before the head was sent.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The code, as the upstream names it: `"insufficient_quota"`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The type, as the upstream names it: `"overloaded_error"`.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.type_name.as_deref()
    }

    /// The upstream's message for people, at most 1 KiB.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the error means for retries and the upstream's health.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When the upstream wants to be tried again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        self.retry_after
    }

    /// The event that reports the error to the caller, in the form that the dialect's official clients raise as an error:
    /// the upstream's own event if it has that form. Empty if the error did not come in a stream.
    #[must_use]
    pub const fn frame(&self) -> &Bytes {
        &self.frame
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream's answer contains an error ({}", self.status.as_u16())?;
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
