//! What a call says about the upstream.

use std::error::Error;
use std::time::Duration;

use http::{HeaderMap, Response};

use crate::policy::breaker::Ended;
use crate::policy::verdict::{Classifier, Health, Outcome};
use crate::proto::retry_after::retry_after;
use crate::rt::clock;

/// Turns answers and errors into [`Ended`]s.
#[derive(Clone, Debug, Default)]
pub(super) struct Judge {
    pub(super) classifier: Classifier,
    /// A call is slow when it takes longer than this.
    pub(super) slow_after: Option<Duration>,
    pub(super) slow_by: SlowBy,
}

/// How long a call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowBy {
    /// The time to the first data of its response: a long answer is not a slow one.
    #[default]
    FirstData,
    /// The time to the end of its response.
    WholeBody,
}

pub(super) const GOOD: Ended = Ended { health: Health::Good, slow: false, retry_after: None };
/// What fails without a word: the inner service has panicked.
pub(super) const BROKEN: Ended = Ended { health: Health::Bad, slow: false, retry_after: None };

// === impl Judge ===

impl Judge {
    #[inline]
    pub(super) fn head<B>(&self, response: &Response<B>) -> Ended {
        self.judge(&Outcome::head(response))
    }

    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Ended {
        self.judge(&Outcome::Trailers(trailers))
    }

    #[cold]
    pub(super) fn error(&self, err: &(dyn Error + 'static)) -> Ended {
        self.judge(&Outcome::Error(err))
    }

    #[inline]
    fn judge(&self, outcome: &Outcome<'_>) -> Ended {
        let verdict = self.classifier.classify(outcome);
        match verdict.health {
            Health::Good => GOOD,
            health => {
                // Where the remedy is another upstream, this one's wish still stands.
                let hint = verdict.retry_after().or_else(|| retry_after(outcome.headers()?));
                Ended { health, slow: false, retry_after: hint.map(|hint| hint.wait(clock::wall())) }
            }
        }
    }
}
