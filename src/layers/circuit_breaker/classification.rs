//! What a call says about the upstream.

use std::error::Error;

use http::{HeaderMap, Response};

use crate::policy::breaker::CallResult;
use crate::policy::verdict::{Classifier, Health, Outcome};
use crate::proto::grpc;
use crate::proto::retry_after::retry_after;
use crate::rt::clock;

/// What the head of an answer says.
#[inline]
pub(super) fn of_head<B>(classifier: &Classifier, response: &Response<B>) -> CallResult {
    of(classifier, &Outcome::head(response))
}

/// What the trailers at the end of a body say.
pub(super) fn of_trailers(classifier: &Classifier, trailers: &HeaderMap) -> CallResult {
    of(classifier, &Outcome::end(trailers))
}

/// Whether the trailers of this response's body must say what it comes to.
#[inline]
pub(super) fn needs_trailers<B>(classifier: &Classifier, response: &Response<B>) -> bool {
    !classifier.is_standard() && grpc::owes_status(response.headers())
}

/// What it says that a body ended without the trailers that were to come.
#[cold]
pub(super) fn of_missing_trailers(classifier: &Classifier) -> CallResult {
    of(classifier, &Outcome::end_without_trailers())
}

/// What it says that no answer came, or that its body broke off.
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
            // An answer of our own layers is none of the upstream's.
            let answered = outcome.cause().is_none() && outcome.rejection().is_none();
            CallResult { health, slow: false, answered, retry_after: hint.map(|hint| hint.wait(clock::wall())) }
        }
    }
}
