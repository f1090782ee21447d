//! Judges a finished attempt.
//!
//! # Why three answers?
//!
//! "May another attempt serve this call?", "is the upstream failing?" and "what caused the failure?" are different
//! questions. A 401 means that this credential is invalid (another upstream may serve the call) and that the upstream is
//! healthy. A breaker that opens on it lets one caller's bad key lock out all others, and a fallback that asks a backup
//! with the operator's key lets all strangers in. So a [`Verdict`] holds a [`NextStep`] for retries and fallbacks, a
//! [`Health`] for the breaker, and a [`Matter`] for fallbacks. One classifier returns all three, so layers never
//! disagree.
//!
//! [`Standard`] is the default, [`Grpc`] reads `grpc-status`, and a closure replaces or wraps either:
//!
//! ```
//! use http::{Response, StatusCode};
//! use std::convert::Infallible;
//! use tower_buttress::verdict::{Classify, Health, Matter, NextStep, Outcome, Standard, Verdict};
//!
//! // This upstream answers 404 for a second or two after a deployment.
//! let classifier = |outcome: &Outcome<'_>| match outcome.status() {
//!     Some(StatusCode::NOT_FOUND) => {
//!         Verdict::new(NextStep::retry(None), Health::Ignored).with_matter(Matter::Upstream)
//!     }
//!     _ => Standard::new().classify(outcome),
//! };
//!
//! let answer = |status| Ok::<_, Infallible>(Response::builder().status(status).body(()).unwrap());
//! assert_eq!(classifier.classify(&Outcome::of(&answer(404))).next, NextStep::retry(None));
//! assert_eq!(classifier.classify(&Outcome::of(&answer(400))).next, NextStep::GiveUp);
//! ```

use std::fmt;
use std::sync::Arc;

use http::Request;

pub use self::grpc::Grpc;
pub(crate) use self::outcome::EarlyTrailers;
use self::outcome::KeptRequest;
pub use self::outcome::{Outcome, RequestView};
pub use self::standard::Standard;
use crate::proto::retry_after::RetryAfter;

mod grpc;
mod outcome;
mod standard;
mod transport;

/// The verdict on a finished attempt: for the call, and for the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// What to do next for this call.
    pub next: NextStep,
    /// What the attempt shows about the upstream.
    pub health: Health,
    /// Whether it proves that the upstream did nothing, so that a request that must not be executed twice (a `POST`
    /// without an idempotency key) may still be retried.
    pub not_executed: bool,
    /// The cause of a failure. Meaningless if the call was served.
    pub matter: Matter,
}

/// What to do next for this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextStep {
    /// The call has been served.
    Done,
    /// Retry at the same upstream, after a wait. Made with [`retry`](Self::retry).
    #[non_exhaustive]
    Retry {
        /// When the upstream wants to be tried again.
        after: Option<RetryAfter>,
    },
    /// Try another upstream, model or credential. The same one would fail again.
    TryAnother,
    /// No further attempt: no upstream can serve the request, or its time is over.
    GiveUp,
}

/// What an attempt shows about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It works.
    Success,
    /// It failed.
    Failure,
    /// It works, and is overloaded.
    Throttled,
    /// Nothing.
    Ignored,
}

/// The cause of a failure: what would have to change for the call to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Matter {
    /// The upstream: it would have failed any caller, with any request.
    Upstream,
    /// The request: it is too large, malformed, or asks for something that does not exist.
    Request,
    /// The credential: it was refused, has no permission, no credit, or is limited.
    Credential,
    /// A layer of this crate, which refused for a reason of its own. Any caller can provoke that at will.
    Ours,
}

/// Returns the [`Verdict`] on the outcome of an attempt. See the [module](self) for how to replace or wrap a classifier.
///
/// Called once per attempt by each layer that judges it, including successes: keep it cheap.
///
/// ```
/// use tower_buttress::RetryAfterBackoffLayer;
/// use tower_buttress::verdict::{Classify, Health, Outcome, Standard, Verdict};
///
/// /// An upstream that is well as long as it answers at all.
/// #[derive(Clone, Copy)]
/// struct AnswersAtAll;
///
/// impl Classify for AnswersAtAll {
///     fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
///         let mut verdict = Standard::new().classify(outcome);
///         if outcome.status().is_some() {
///             verdict.health = Health::Success;
///         }
///         verdict
///     }
///
///     fn needs_request(&self) -> bool {
///         false
///     }
/// }
///
/// let layer = RetryAfterBackoffLayer::new().classifier(AnswersAtAll);
/// # let answer = Ok::<_, std::convert::Infallible>(http::Response::builder().status(503).body(()).unwrap());
/// # assert_eq!(AnswersAtAll.classify(&Outcome::of(&answer)).health, Health::Success);
/// # let _ = layer;
/// ```
pub trait Classify: Send + Sync {
    /// Returns the verdict.
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict;

    /// Whether it reads the [request](Outcome::request); if so, a layer that does not keep the request copies it for each
    /// call. Default: yes.
    fn needs_request(&self) -> bool {
        true
    }
}

/// The classifier of a layer. The default one is called directly, since each call uses it.
#[derive(Clone)]
pub(crate) enum Classifier {
    Standard(Standard),
    Other(Arc<dyn Classify>),
    /// For one call, whose request the classifier reads.
    ForCall(Arc<dyn Classify>, Arc<KeptRequest>),
}

// === impl NextStep ===

impl NextStep {
    /// Another attempt at the same upstream, at the earliest after the wait that it asked for.
    #[must_use]
    pub const fn retry(after: Option<RetryAfter>) -> Self {
        Self::Retry { after }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Returns a verdict without proof that nothing was executed. The [matter](Matter) of a failure is the upstream, of
    /// throttling the credential, of everything else the request, unless [`with_matter`](Self::with_matter) changes it.
    #[must_use]
    pub const fn new(next: NextStep, health: Health) -> Self {
        let matter = match health {
            Health::Failure => Matter::Upstream,
            Health::Throttled => Matter::Credential,
            Health::Success | Health::Ignored => Matter::Request,
        };
        Self { next, health, matter, not_executed: false }
    }

    /// Adds the proof that the upstream executed nothing.
    #[must_use]
    pub const fn not_executed(mut self) -> Self {
        self.not_executed = true;
        self
    }

    /// Replaces the next step.
    #[must_use]
    pub const fn with_next(mut self, next: NextStep) -> Self {
        self.next = next;
        self
    }

    /// Replaces the matter.
    #[must_use]
    pub const fn with_matter(mut self, matter: Matter) -> Self {
        self.matter = matter;
        self
    }

    /// When the upstream wants to be tried again, if a retry is the next step.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self.next {
            NextStep::Retry { after } => after,
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

    fn needs_request(&self) -> bool {
        (**self).needs_request()
    }
}

// === impl Classifier ===

impl Classifier {
    pub(crate) const STANDARD: Self = Self::Standard(Standard::new());

    pub(crate) fn new(classifier: impl Classify + 'static) -> Self {
        Self::Other(Arc::new(classifier))
    }

    /// The same for one call, if the layer does not keep the request itself.
    #[inline]
    pub(crate) fn for_call<B>(self, request: &Request<B>) -> Self {
        self.reading(request).unwrap_or(self)
    }

    /// The classifier of one call, if it reads the request.
    #[inline]
    pub(crate) fn reading<B>(&self, request: &Request<B>) -> Option<Self> {
        match self {
            Self::Other(classifier) if classifier.needs_request() => {
                Some(Self::ForCall(classifier.clone(), Arc::new(KeptRequest::of(request))))
            }
            _ => None,
        }
    }

    pub(crate) const fn is_standard(&self) -> bool {
        matches!(self, Self::Standard(_))
    }

    #[inline]
    pub(crate) fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        match self {
            Self::Standard(classifier) => classifier.classify(outcome),
            Self::Other(classifier) => classifier.classify(outcome),
            Self::ForCall(classifier, request) => classifier.classify(&outcome.with_request(request.view())),
        }
    }
}

impl Default for Classifier {
    fn default() -> Self {
        Self::STANDARD
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Classifier")
    }
}

#[cfg(test)]
mod tests {
    use http::{Response, StatusCode};

    use super::*;

    /// Retries requests to `/again`, if it reads requests at all.
    struct ByPath {
        looks: bool,
    }

    impl Classify for ByPath {
        fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
            match outcome.request() {
                Some(request) if request.uri.path() == "/again" => Verdict::new(NextStep::retry(None), Health::Failure),
                Some(_) => Verdict::new(NextStep::TryAnother, Health::Success),
                None => Verdict::new(NextStep::GiveUp, Health::Success),
            }
        }

        fn needs_request(&self) -> bool {
            self.looks
        }
    }

    fn next(classifier: &Classifier) -> NextStep {
        classifier.classify(&Outcome::head(&Response::new(()))).next
    }

    #[test]
    fn a_classifier_sees_the_request_if_it_looks_at_it() {
        let request = Request::get("/again").body(()).unwrap();
        let classifier = Classifier::new(ByPath { looks: true });
        assert_eq!(next(&classifier), NextStep::GiveUp);
        assert_eq!(next(&classifier.for_call(&request)), NextStep::retry(None));
        assert_eq!(next(&Classifier::new(ByPath { looks: false }).for_call(&request)), NextStep::GiveUp);
        let shared: Arc<dyn Classify> = Arc::new(ByPath { looks: false });
        assert!(!shared.needs_request());
        assert_eq!(next(&Classifier::new(shared).for_call(&request)), NextStep::GiveUp);
        let shared: Arc<dyn Classify> = Arc::new(ByPath { looks: true });
        assert_eq!(next(&Classifier::new(shared).for_call(&request)), NextStep::retry(None));
    }

    #[test]
    fn a_closure_is_a_classifier() {
        let classifier = Classifier::new(|outcome: &Outcome<'_>| match outcome.status() {
            Some(StatusCode::OK) => Verdict::new(NextStep::TryAnother, Health::Failure),
            _ => Verdict::new(NextStep::GiveUp, Health::Failure),
        });
        assert_eq!(next(&classifier), NextStep::TryAnother);
        let looks = |_: &Outcome<'_>| Verdict::new(NextStep::Done, Health::Success);
        assert!(looks.needs_request() && !classifier.is_standard());
    }

    #[test]
    fn without_another_the_standard_decides() {
        let classifier = Classifier::default();
        assert!(classifier.is_standard());
        assert_eq!(next(&classifier), NextStep::Done);
        assert!(classifier.for_call(&Request::new(())).is_standard());
        assert_eq!(format!("{:?}", Classifier::default()), "Classifier");
    }

    #[test]
    fn a_verdict_says_whose_matter_it_is() {
        let matter = |health| Verdict::new(NextStep::Done, health).matter;
        assert_eq!(matter(Health::Failure), Matter::Upstream);
        assert_eq!(matter(Health::Throttled), Matter::Credential);
        assert_eq!((matter(Health::Success), matter(Health::Ignored)), (Matter::Request, Matter::Request));
        let verdict = Verdict::new(NextStep::GiveUp, Health::Failure);
        assert!(!verdict.not_executed && verdict.not_executed().not_executed);
        assert_eq!(verdict.with_next(NextStep::Done).next, NextStep::Done);
        assert_eq!(verdict.with_matter(Matter::Ours).matter, Matter::Ours);
        let after = RetryAfter::from(std::time::Duration::from_secs(3));
        assert_eq!(verdict.retry_after(), None);
        assert_eq!(verdict.with_next(NextStep::retry(Some(after))).retry_after(), Some(after));
    }
}
