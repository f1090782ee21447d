//! What a call says about the upstream.

use std::error::Error;
use std::time::Duration;

use http::{HeaderMap, Response};

use crate::policy::breaker::CallResult;
use crate::policy::verdict::{Classifier, Health, Outcome};
use crate::proto::grpc;
use crate::proto::retry_after::retry_after;
use crate::rt::clock;

/// Turns answers and errors into [`CallResult`]s.
#[derive(Clone, Debug, Default)]
pub(super) struct Classification {
    pub(super) classifier: Classifier,
    /// A call is slow when it takes longer than this.
    pub(super) slow_after: Option<Duration>,
    pub(super) slow_by: SlowCallBy,
}

/// How long a call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowCallBy {
    /// The time to the first data of its response: a long answer is not a slow one.
    #[default]
    FirstData,
    /// The time to the end of its response.
    WholeBody,
}

pub(super) const SUCCEEDED: CallResult = CallResult { health: Health::Success, slow: false, retry_after: None };
/// What fails without a word: the inner service has panicked.
pub(super) const PANICKED: CallResult = CallResult { health: Health::Failure, slow: false, retry_after: None };

// === impl Classification ===

impl Classification {
    #[inline]
    pub(super) fn head<B>(&self, response: &Response<B>) -> CallResult {
        self.judge(&Outcome::head(response))
    }

    pub(super) fn trailers(&self, trailers: &HeaderMap) -> CallResult {
        self.judge(&Outcome::end(trailers))
    }

    /// Whether the trailers of this response's body have still to say what it comes to.
    #[inline]
    pub(super) fn awaits_status<B>(&self, response: &Response<B>) -> bool {
        !self.classifier.is_standard() && grpc::owes_status(response.headers())
    }

    /// The body ended without the trailers that were to come.
    #[cold]
    pub(super) fn no_trailers(&self) -> CallResult {
        self.judge(&Outcome::end_without_trailers())
    }

    #[cold]
    pub(super) fn error(&self, err: &(dyn Error + 'static)) -> CallResult {
        self.judge(&Outcome::failure(err))
    }

    #[inline]
    fn judge(&self, outcome: &Outcome<'_>) -> CallResult {
        let verdict = self.classifier.classify(outcome);
        match verdict.health {
            Health::Success => SUCCEEDED,
            health => {
                // `Retry-After` extends the open time even when the caller should go to another upstream.
                let hint = verdict.retry_after().or_else(|| retry_after(outcome.headers()?));
                CallResult { health, slow: false, retry_after: hint.map(|hint| hint.wait(clock::wall())) }
            }
        }
    }
}
