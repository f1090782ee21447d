//! The end of a shared call without a head, for those who follow it.

use std::error::Error;
use std::fmt;

use http::Response;

use crate::call::{Attempts, RetryReport};
use crate::error;
use crate::proto::retry_after;
use crate::rejection::Rejection;

/// A shared call ended in an error before its head. Its leader gets the error itself.
#[derive(Debug)]
pub(super) struct SharedFailure {
    /// Of the retry layer inside.
    report: RetryReport,
}

// === impl SharedFailure ===

impl SharedFailure {
    pub(super) fn new(report: RetryReport) -> Self {
        Self { report }
    }

    /// Writes the attempts of the call to a follower's refusal: its client's own retries would repeat all of them.
    pub(super) fn mark<B>(answer: &mut Response<B>) {
        let failure = Rejection::of(answer).and_then(Error::source).and_then(error::find::<Self>);
        let Some(report) = failure.map(|failure| failure.report.clone()) else { return };
        if report.attempts() > 0 {
            answer.extensions_mut().insert(Attempts(report.attempts()));
        }
        if report.is_final() {
            retry_after::forbid_retry(answer.headers_mut());
        }
    }
}

impl fmt::Display for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shared call failed")
    }
}

impl Error for SharedFailure {}
