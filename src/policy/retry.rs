//! Whether a finished attempt is followed by another, and when.

use std::time::{Duration, Instant};

use fastrand::Rng;
use http::{HeaderMap, HeaderName, Method};

use super::backoff::{self, Backoff};
use super::budget::RetryBudget;
use super::verdict::{NextStep, Verdict};
use crate::proto::idempotency_key::IdempotencyKey;

/// What the layer was told.
#[derive(Clone, Debug)]
pub(crate) struct RetryPolicy {
    /// In all, the first included.
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) max_retry_after: Duration,
    /// Whether to send again what may have been done, and must not be done twice.
    pub(crate) non_idempotent: bool,
    pub(crate) budget: RetryBudget,
}

/// One attempt that is over, and where the call stands with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptResult {
    pub(crate) verdict: Verdict,
    /// Which attempt it was, from 1.
    pub(crate) attempt: u32,
    /// How long the upstream asked to be left alone.
    pub(crate) asked: Option<Duration>,
    /// Whether the request may be done twice.
    pub(crate) idempotent: bool,
    pub(crate) upload: Upload,
    /// The wait before this attempt.
    pub(crate) waited: Duration,
    /// What is left of the call's deadline.
    pub(crate) remaining: Option<Duration>,
}

/// How the request body fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    /// It can be sent again.
    Repeatable,
    /// The answer came while it was being sent: what the upstream has of it, nobody knows.
    CutShort,
    /// More than may be kept.
    TooLarge,
    /// It failed.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The answer is returned: a retry is not the next step.
    Return,
    /// A retry would be, but there is none, for this reason.
    NotRetried(NotRetried),
    /// Another attempt after this wait.
    Retry(Duration),
}

/// Why a failed attempt was not followed by another, though the verdict was that a retry may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotRetried {
    /// As many attempts were made as are allowed.
    AttemptsSpent,
    /// The request may have been done, and must not be done twice.
    NotIdempotent,
    /// The answer came before the request body had been sent.
    BodyCutShort,
    /// The request body is larger than the replay limit.
    BodyTooLarge,
    /// The request body failed.
    BodyFailed,
    /// The upstream asked for a longer wait than the layer allows.
    RetryAfterTooLong,
    /// The wait would not end before the call's deadline.
    Deadline,
    /// The retry budget is spent.
    Budget,
}

pub(crate) const IDEMPOTENCY_KEY: HeaderName = IdempotencyKey::HEADER;

/// Whether a request may be done twice: by its method (RFC 9110 9.2.2), or because it carries a key by which the
/// upstream knows it again. Nothing is known by an empty one.
pub(crate) fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.get_all(IDEMPOTENCY_KEY).iter().any(|key| !key.is_empty())
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// Asks the budget last: what is not retried for another reason costs nothing.
    pub(crate) fn decide(&self, finished: &AttemptResult, now: Instant, rng: &mut Rng) -> Decision {
        if !matches!(finished.verdict.next, NextStep::Retry { .. }) {
            return Decision::Return;
        }
        match self.wait(finished, rng) {
            Err(reason) => Decision::NotRetried(reason),
            Ok(_) if !self.budget.withdraw(now) => Decision::NotRetried(NotRetried::Budget),
            Ok(wait) => Decision::Retry(wait),
        }
    }

    fn wait(&self, finished: &AttemptResult, rng: &mut Rng) -> Result<Duration, NotRetried> {
        if finished.attempt >= self.attempts {
            return Err(NotRetried::AttemptsSpent);
        }
        if !(finished.idempotent || finished.verdict.not_executed || self.non_idempotent) {
            return Err(NotRetried::NotIdempotent);
        }
        match finished.upload {
            Upload::Repeatable => {}
            Upload::CutShort => return Err(NotRetried::BodyCutShort),
            Upload::TooLarge => return Err(NotRetried::BodyTooLarge),
            Upload::Failed => return Err(NotRetried::BodyFailed),
        }
        let remaining = finished.remaining.unwrap_or(Duration::MAX);
        let wait = match finished.asked {
            // "At once" is no reason to come in step with everybody else who was told so.
            None | Some(Duration::ZERO) => self.backoff.wait(finished.attempt - 1, finished.waited, rng),
            Some(asked) if asked > self.max_retry_after => return Err(NotRetried::RetryAfterTooLong),
            Some(asked) => {
                let latest = asked.saturating_add(asked / 2).min(self.max_retry_after).min(remaining);
                backoff::between(asked, latest, rng)
            }
        };
        if wait < remaining { Ok(wait) } else { Err(NotRetried::Deadline) }
    }
}

// === impl NotRetried ===

impl NotRetried {
    /// A stable name: `"budget"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsSpent => "attempts-spent",
            Self::NotIdempotent => "not-idempotent",
            Self::BodyCutShort => "body-cut-short",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyFailed => "body-failed",
            Self::RetryAfterTooLong => "retry-after-too-long",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
        }
    }
}

impl std::fmt::Display for NotRetried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};

    use super::*;
    use crate::policy::backoff::Jitter;
    use crate::policy::verdict::Health;

    const S: Duration = Duration::from_secs(1);
    const RETRY: Verdict = Verdict::new(NextStep::Retry { after: None }, Health::Failure);

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts: 3,
            backoff: Backoff { base: S, cap: 20 * S, jitter: Jitter::None },
            max_retry_after: 60 * S,
            non_idempotent: false,
            budget: RetryBudget::unlimited(),
        }
    }

    fn failed() -> AttemptResult {
        AttemptResult {
            verdict: RETRY,
            attempt: 1,
            asked: None,
            idempotent: true,
            upload: Upload::Repeatable,
            waited: Duration::ZERO,
            remaining: None,
        }
    }

    fn decide(policy: &RetryPolicy, finished: AttemptResult) -> Decision {
        policy.decide(&finished, Instant::now(), &mut Rng::with_seed(1))
    }

    fn refused(reason: NotRetried) -> Decision {
        Decision::NotRetried(reason)
    }

    #[test]
    fn only_a_retry_is_retried() {
        for next in [NextStep::Done, NextStep::TryAnother, NextStep::GiveUp] {
            let verdict = Verdict::new(next, Health::Failure).not_executed();
            assert_eq!(decide(&policy(), AttemptResult { verdict, ..failed() }), Decision::Return);
        }
        assert_eq!(decide(&policy(), failed()), Decision::Retry(S));
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        assert_eq!(decide(&policy(), AttemptResult { attempt: 2, ..failed() }), Decision::Retry(2 * S));
        assert_eq!(decide(&policy(), AttemptResult { attempt: 3, ..failed() }), refused(NotRetried::AttemptsSpent));
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        let post = AttemptResult { idempotent: false, ..failed() };
        assert_eq!(decide(&policy(), post), refused(NotRetried::NotIdempotent));
        let unsent = AttemptResult { verdict: RETRY.not_executed(), ..post };
        assert_eq!(decide(&policy(), unsent), Decision::Retry(S));
        let told = RetryPolicy { non_idempotent: true, ..policy() };
        assert_eq!(decide(&told, post), Decision::Retry(S));
    }

    #[test]
    fn a_body_that_cannot_be_sent_again_is_not() {
        for (upload, reason) in [
            (Upload::CutShort, NotRetried::BodyCutShort),
            (Upload::TooLarge, NotRetried::BodyTooLarge),
            (Upload::Failed, NotRetried::BodyFailed),
        ] {
            assert_eq!(decide(&policy(), AttemptResult { upload, ..failed() }), refused(reason));
        }
    }

    #[test]
    fn a_wait_that_is_asked_for_is_obeyed_or_there_is_no_retry() {
        let asked = |asked| AttemptResult { asked: Some(asked), ..failed() };
        for seed in 0..100 {
            let Decision::Retry(wait) = policy().decide(&asked(10 * S), Instant::now(), &mut Rng::with_seed(seed))
            else {
                panic!("not retried");
            };
            assert!(wait >= 10 * S && wait <= 15 * S, "{wait:?}");
        }
        assert_eq!(decide(&policy(), asked(60 * S)), Decision::Retry(60 * S));
        assert_eq!(decide(&policy(), asked(61 * S)), refused(NotRetried::RetryAfterTooLong));
        assert_eq!(decide(&policy(), asked(Duration::MAX)), refused(NotRetried::RetryAfterTooLong));
        // "At once" says nothing of how long to wait.
        assert_eq!(decide(&policy(), asked(Duration::ZERO)), Decision::Retry(S));
    }

    #[test]
    fn no_wait_ends_at_the_deadline_or_later() {
        let by = |remaining, asked| decide(&policy(), AttemptResult { remaining: Some(remaining), asked, ..failed() });
        assert_eq!(by(S, None), refused(NotRetried::Deadline));
        assert_eq!(by(2 * S, None), Decision::Retry(S));
        assert_eq!(by(5 * S, Some(5 * S)), refused(NotRetried::Deadline));
        assert!(matches!(by(5 * S, Some(4 * S)), Decision::Retry(_)));
        assert_eq!(by(Duration::ZERO, None), refused(NotRetried::Deadline));
    }

    #[test]
    fn the_budget_is_asked_last() {
        let policy = RetryPolicy { budget: RetryBudget::new(0, 1, S), ..policy() };
        assert_eq!(decide(&policy, AttemptResult { attempt: 3, ..failed() }), refused(NotRetried::AttemptsSpent));
        assert_eq!(decide(&policy, failed()), Decision::Retry(S));
        assert_eq!(decide(&policy, failed()), refused(NotRetried::Budget));
    }

    #[test]
    fn a_key_makes_a_post_repeatable() {
        let mut headers = HeaderMap::new();
        assert!(is_idempotent(&Method::GET, &headers) && is_idempotent(&Method::PUT, &headers));
        assert!(!is_idempotent(&Method::POST, &headers) && !is_idempotent(&Method::PATCH, &headers));
        headers.insert(IDEMPOTENCY_KEY, http::HeaderValue::from_static(""));
        assert!(!is_idempotent(&Method::POST, &headers));
        headers.insert(IDEMPOTENCY_KEY, http::HeaderValue::from_static("8e03978e"));
        assert!(is_idempotent(&Method::POST, &headers));
    }

    proptest! {
        #[test]
        fn a_retry_never_comes_too_early_nor_too_late(
            asked in any::<Option<Duration>>(), small in 0..200_u64, remaining in any::<Option<Duration>>(),
            left in 0..200_u64, max in 0..100_u32, attempt in 1..100_u32, waited in any::<Duration>(), seed in any::<u64>(),
            jitter in prop_oneof![Just(Jitter::Full), Just(Jitter::Equal), Just(Jitter::Decorrelated)],
        ) {
            for (asked, remaining) in [
                (asked, remaining),
                (Some(Duration::from_secs(small)), Some(Duration::from_secs(left))),
            ] {
                let mut policy = RetryPolicy { attempts: u32::MAX, max_retry_after: S * max, ..policy() };
                policy.backoff.jitter = jitter;
                let finished = AttemptResult { asked, remaining, attempt, waited, ..failed() };
                if let Decision::Retry(wait) = policy.decide(&finished, Instant::now(), &mut Rng::with_seed(seed)) {
                    prop_assert!(remaining.is_none_or(|remaining| wait < remaining));
                    match asked.filter(|asked| !asked.is_zero()) {
                        Some(asked) => prop_assert!(wait >= asked && wait <= policy.max_retry_after),
                        None => prop_assert!(wait <= policy.backoff.cap),
                    }
                }
            }
        }
    }
}
