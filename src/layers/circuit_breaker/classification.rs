//! Judges the upstream by a call.

use std::error::Error;

use http::{HeaderMap, Response};

use crate::policy::breaker::CallResult;
use crate::policy::verdict::{Classifier, Health, Outcome};
use crate::proto::grpc;
use crate::proto::retry_after::retry_after;
use crate::rt::clock;

/// Judges the head of an answer.
#[inline]
pub(super) fn of_head<B>(classifier: &Classifier, response: &Response<B>) -> CallResult {
    of(classifier, &Outcome::head(response))
}

/// Judges the trailers at the end of a body.
pub(super) fn of_trailers(classifier: &Classifier, trailers: &HeaderMap) -> CallResult {
    of(classifier, &Outcome::end(trailers))
}

/// Whether the trailers of this response decide its result.
#[inline]
pub(super) fn needs_trailers<B>(classifier: &Classifier, response: &Response<B>) -> bool {
    !classifier.is_standard() && grpc::owes_status(response.headers())
}

/// Judges a body that ended without the expected trailers.
#[cold]
pub(super) fn of_missing_trailers(classifier: &Classifier) -> CallResult {
    of(classifier, &Outcome::end_without_trailers())
}

/// Judges an error instead of an answer, or in its body.
#[cold]
pub(super) fn of_error(classifier: &Classifier, err: &(dyn Error + 'static)) -> CallResult {
    of(classifier, &Outcome::failure(err))
}

#[inline]
fn of(classifier: &Classifier, outcome: &Outcome<'_>) -> CallResult {
    let verdict = classifier.classify(outcome);
    match verdict.health {
        Health::Success => CallResult::SUCCESS,
        health => {
            // `Retry-After` extends the open time even when the caller should go to another upstream.
            let hint = verdict.retry_after().or_else(|| retry_after(outcome.headers()?));
            // A refusal of this crate is not an answer of the upstream.
            let answered = outcome.cause().is_none() && outcome.rejection().is_none();
            CallResult { health, slow: false, answered, retry_after: hint.map(|hint| hint.wait(clock::wall())) }
        }
    }
}
