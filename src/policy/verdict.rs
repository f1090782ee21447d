//! What one finished attempt means.
//!
//! # Why two answers?
//!
//! "May another attempt serve this call?" and "is the upstream ill?" are different questions. A 401 says that this
//! credential is no good (another upstream may serve the call) and that the upstream is very much alive; a breaker
//! that opens on it lets one caller's bad key lock out everybody. So a [`Verdict`] holds a [`NextStep`], which retries
//! and fallbacks ask for, and a [`Health`], which the breaker asks for. One classifier gives both, to all of them, so
//! that they never disagree.
//!
//! [`Standard`] is the default, [`Grpc`] reads `grpc-status`, and a closure replaces or wraps either:
//!
//! ```
//! use http::{Response, StatusCode};
//! use std::convert::Infallible;
//! use tower_buttress::verdict::{Classify, Health, Outcome, NextStep, Standard, Verdict};
//!
//! // This upstream answers 404 for a second or two after a deployment.
//! let classifier = |outcome: &Outcome<'_>| match outcome.status() {
//!     Some(StatusCode::NOT_FOUND) => Verdict::new(NextStep::Retry { after: None }, Health::Ignored),
//!     _ => Standard::new().classify(outcome),
//! };
//!
//! let answer = |status| Ok::<_, Infallible>(Response::builder().status(status).body(()).unwrap());
//! assert_eq!(classifier.classify(&Outcome::of(&answer(404))).next, NextStep::Retry { after: None });
//! assert_eq!(classifier.classify(&Outcome::of(&answer(400))).next, NextStep::GiveUp);
//! ```

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::{Extensions, HeaderMap, Response, StatusCode};

pub use self::grpc::Grpc;
pub use self::standard::Standard;
use crate::error;
use crate::proto::retry_after::RetryAfter;
use crate::rejection::Rejection;

mod grpc;
mod standard;
mod transport;

/// What one finished attempt means: for the call, and for the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// What to do next for this call.
    pub next: NextStep,
    /// What the attempt says about the upstream.
    pub health: Health,
    /// Whether it proves that the upstream did nothing, so that a request that must not be done twice (a `POST` without
    /// an idempotency key) may be sent again all the same.
    pub not_executed: bool,
}

/// What to do next for this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextStep {
    /// The call has been served.
    Done,
    /// The same upstream, in a while.
    Retry {
        /// When it asked to be tried again.
        after: Option<RetryAfter>,
    },
    /// Another upstream, model or credential. The same one would say the same again.
    TryAnother,
    /// No further attempt: the request itself cannot be served, or its time is over.
    GiveUp,
}

/// What an attempt says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It works.
    Success,
    /// It failed.
    Failure,
    /// It works, and cannot take more.
    Throttled,
    /// Nothing.
    Ignored,
}

/// What there is to judge.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// The head of an answer, a refusal of our own layers included.
    Head {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
        /// Its extensions.
        extensions: &'a Extensions,
    },
    /// No answer came, or its body broke off.
    Error(&'a (dyn Error + 'static)),
    /// The body came to its end, with these trailers.
    Trailers(&'a HeaderMap),
}

/// Gives a [`Verdict`] on what an attempt came to. See the [module](self) for how to replace or wrap one.
///
/// It is asked once per attempt, on the good path too: it should look before it parses.
pub trait Classify: Send + Sync {
    /// The verdict.
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict;
}

/// The classifier that a layer carries. The default one is called directly, since each call asks it.
#[derive(Clone)]
pub(crate) enum Classifier {
    Standard(Standard),
    Other(Arc<dyn Classify>),
}

// === impl Verdict ===

impl Verdict {
    /// A verdict without proof that nothing was done.
    #[must_use]
    pub const fn new(next: NextStep, health: Health) -> Self {
        Self { next, health, not_executed: false }
    }

    /// Adds the proof that the upstream did nothing.
    #[must_use]
    pub const fn not_executed(mut self) -> Self {
        self.not_executed = true;
        self
    }

    /// The same, with another next step.
    #[must_use]
    pub const fn with_next(mut self, next: NextStep) -> Self {
        self.next = next;
        self
    }

    /// When the upstream asked to be tried again, where a retry is the next step.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self.next {
            NextStep::Retry { after } => after,
            _ => None,
        }
    }
}

// === impl Outcome ===

impl<'a> Outcome<'a> {
    /// What a service came to.
    #[inline]
    pub fn of<B, E: Error + 'static>(result: &'a Result<Response<B>, E>) -> Self {
        match result {
            Ok(response) => Self::head(response),
            Err(err) => Self::Error(err),
        }
    }

    /// What the head of this response says.
    #[inline]
    #[must_use]
    pub fn head<B>(response: &'a Response<B>) -> Self {
        Self::Head { status: response.status(), headers: response.headers(), extensions: response.extensions() }
    }

    /// The status, where there is one.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Head { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The headers or trailers, where there are any.
    #[must_use]
    pub const fn headers(&self) -> Option<&'a HeaderMap> {
        match self {
            Self::Head { headers, .. } | Self::Trailers(headers) => Some(headers),
            Self::Error(_) => None,
        }
    }

    /// The refusal of one of our own layers, as a response or as an error.
    #[inline]
    #[must_use]
    pub fn rejection(&self) -> Option<&'a Rejection> {
        match self {
            Self::Head { extensions, .. } => extensions.get(),
            Self::Error(err) => error::find(*err),
            Self::Trailers(_) => None,
        }
    }

    /// The first error of type `E` in the chain of the error, where there is one.
    #[must_use]
    pub fn error<E: Error + 'static>(&self) -> Option<&'a E> {
        match self {
            Self::Error(err) => error::find(*err),
            _ => None,
        }
    }
}

// === impl Classify ===

impl<F> Classify for F
where
    F: Fn(&Outcome<'_>) -> Verdict + Send + Sync,
{
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        self(outcome)
    }
}

impl Classify for Arc<dyn Classify> {
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        (**self).classify(outcome)
    }
}

// === impl Classifier ===

impl Classifier {
    pub(crate) fn new(classifier: impl Classify + 'static) -> Self {
        Self::Other(Arc::new(classifier))
    }

    #[inline]
    pub(crate) fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        match self {
            Self::Standard(classifier) => classifier.classify(outcome),
            Self::Other(classifier) => classifier.classify(outcome),
        }
    }
}

impl Default for Classifier {
    fn default() -> Self {
        Self::Standard(Standard::new())
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Classifier")
    }
}
