//! Decides whether a finished attempt is followed by another, and when.

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::backoff::{self, Backoff};
use super::verdict::{Health, NextStep, Verdict};
use crate::proto::idempotency_key::IdempotencyKey;
use crate::proto::retry_after::RetryAfter;

/// The settings of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    /// The number of attempts, the first included.
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) max_retry_after: Duration,
    /// No attempt starts later than this after the start of the call.
    pub(crate) max_elapsed: Option<Duration>,
    /// Whether a request that may have been executed and is not idempotent is retried.
    pub(crate) non_idempotent: bool,
}

/// A finished attempt, and the state of its call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptResult {
    pub(crate) verdict: Verdict,
    /// The status of the answer; `None` without an answer.
    pub(crate) status: Option<StatusCode>,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The wait that the upstream asked for.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the upstream forbade a retry.
    pub(crate) forbidden: bool,
    /// Whether the request may be executed twice.
    pub(crate) idempotent: bool,
    pub(crate) upload: UploadState,
    /// The wait before this attempt.
    pub(crate) waited: Duration,
    /// The remaining time of the call's deadline.
    pub(crate) remaining: Option<Duration>,
    /// The time since the start of the call; zero if no limit needs it.
    pub(crate) elapsed: Duration,
}

/// How much of the request body the attempt sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadState {
    /// The body can be sent again.
    Repeatable,
    /// The answer came during the upload: how much the upstream has read is unknown.
    CutShort,
    /// The body is larger than the replay limit.
    TooLarge,
    /// The body failed.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Return the answer: no other attempt could help.
    Return,
    /// Another attempt could help, but none is made, for this reason.
    NotRetried(NotRetried),
    /// Make another attempt after this wait.
    Retry(Duration),
}

/// Why a failed attempt was not followed by another that might have helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotRetried {
    /// All permitted attempts were made.
    AttemptsSpent,
    /// The upstream forbade a retry.
    Forbidden,
    /// Another upstream, model or credential might serve the call; the same one would fail again.
    OtherUpstreamNeeded,
    /// The request may have been executed, and is not known to be idempotent.
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
    /// The wait would not end within the layer's time limit for all attempts.
    MaxElapsed,
    /// The retry budget is spent.
    Budget,
}

pub(crate) const IDEMPOTENCY_KEY: HeaderName = IdempotencyKey::HEADER;
/// The longest `Retry-After` that openai-python obeys; beyond it, it retries after its own backoff.
const LONGEST_SDK_WAIT: Duration = Duration::from_secs(120);

/// Whether a request may be executed twice: by its method (RFC 9110 9.2.2), or because it carries a key that the upstream
/// recognises. An empty key, quoted or not, does not count.
pub(crate) fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent()
        || headers.get_all(IDEMPOTENCY_KEY).iter().any(|key| !matches!(key.as_bytes().trim_ascii(), b"" | b"\"\""))
}

// === impl RetryPolicy ===

impl RetryPolicy {
    pub(crate) fn decide(&self, result: &AttemptResult, rng: &mut Rng) -> RetryDecision {
        match result.verdict.next {
            NextStep::Done | NextStep::GiveUp => RetryDecision::Return,
            NextStep::TryAnother if result.forbidden => RetryDecision::NotRetried(NotRetried::Forbidden),
            NextStep::TryAnother => RetryDecision::NotRetried(NotRetried::OtherUpstreamNeeded),
            NextStep::Retry { .. } => {
                self.wait(result, rng).map_or_else(RetryDecision::NotRetried, RetryDecision::Retry)
            }
        }
    }

    fn wait(&self, result: &AttemptResult, rng: &mut Rng) -> Result<Duration, NotRetried> {
        // A faulty request comes first: more attempts would not help.
        if result.upload == UploadState::Failed {
            return Err(NotRetried::BodyFailed);
        }
        if result.attempt >= self.attempts {
            return Err(NotRetried::AttemptsSpent);
        }
        if !(result.idempotent || result.verdict.not_executed || self.non_idempotent) {
            return Err(NotRetried::NotIdempotent);
        }
        match result.upload {
            UploadState::Repeatable => {}
            UploadState::CutShort => return Err(NotRetried::BodyCutShort),
            UploadState::TooLarge => return Err(NotRetried::BodyTooLarge),
            UploadState::Failed => return Err(NotRetried::BodyFailed),
        }
        let left = self.max_elapsed.map_or(Duration::MAX, |limit| limit.saturating_sub(result.elapsed));
        let remaining = result.remaining.unwrap_or(Duration::MAX);
        let wait = match result.retry_after {
            // "At once" must not make all clients with the same answer retry together.
            None | Some(Duration::ZERO) => self.backoff.wait(result.attempt - 1, result.waited, rng),
            Some(asked) if asked > self.max_retry_after => return Err(NotRetried::RetryAfterTooLong),
            Some(asked) if result.verdict.retry_after().is_some_and(RetryAfter::is_advice) => {
                self.backoff.wait(result.attempt - 1, result.waited, rng).max(asked)
            }
            Some(asked) => {
                let latest = asked.saturating_add(asked / 2).min(self.max_retry_after).min(remaining).min(left);
                backoff::between(asked, latest, rng)
            }
        };
        match wait {
            wait if wait >= remaining => Err(NotRetried::Deadline),
            wait if wait > left => Err(NotRetried::MaxElapsed),
            wait => Ok(wait),
        }
    }
}

// === impl AttemptResult ===

impl AttemptResult {
    /// Whether the caller's own retries would only multiply the attempts that this decision ends.
    pub(crate) fn is_final(&self, decision: RetryDecision) -> bool {
        let reason = match decision {
            RetryDecision::Retry(_) => return false,
            RetryDecision::Return => return self.attempt > 1 && self.verdict.next != NextStep::Done,
            RetryDecision::NotRetried(reason) => reason,
        };
        match reason {
            NotRetried::AttemptsSpent | NotRetried::Budget | NotRetried::Forbidden => true,
            // A refusal before sending (an open circuit) says itself when to retry.
            NotRetried::OtherUpstreamNeeded if self.verdict.health != Health::Ignored && self.is_retried_by_sdks() => {
                true
            }
            NotRetried::RetryAfterTooLong if self.retry_after > Some(LONGEST_SDK_WAIT) => true,
            // The caller may know whether the request is repeatable, or have time to wait, unless the layer has already
            // retried.
            _ => self.attempt > 1,
        }
    }

    /// By the rules of the SDKs of OpenAI and Anthropic.
    fn is_retried_by_sdks(&self) -> bool {
        self.status.is_none_or(|status| matches!(status.as_u16(), 408 | 409 | 429 | 500..))
    }
}

// === impl NotRetried ===

impl NotRetried {
    /// A stable name: `"budget"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsSpent => "attempts-spent",
            Self::Forbidden => "forbidden",
            Self::OtherUpstreamNeeded => "other-upstream-needed",
            Self::NotIdempotent => "not-idempotent",
            Self::BodyCutShort => "body-cut-short",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyFailed => "body-failed",
            Self::RetryAfterTooLong => "retry-after-too-long",
            Self::Deadline => "deadline",
            Self::MaxElapsed => "max-elapsed",
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
            max_elapsed: None,
            non_idempotent: false,
        }
    }

    fn failed() -> AttemptResult {
        AttemptResult {
            verdict: RETRY,
            status: Some(StatusCode::INTERNAL_SERVER_ERROR),
            attempt: 1,
            retry_after: None,
            forbidden: false,
            idempotent: true,
            upload: UploadState::Repeatable,
            waited: Duration::ZERO,
            remaining: None,
            elapsed: Duration::ZERO,
        }
    }

    fn decide(policy: &RetryPolicy, result: AttemptResult) -> RetryDecision {
        policy.decide(&result, &mut Rng::with_seed(1))
    }

    fn refused(reason: NotRetried) -> RetryDecision {
        RetryDecision::NotRetried(reason)
    }

    #[test]
    fn only_a_retry_is_retried() {
        for next in [NextStep::Done, NextStep::GiveUp] {
            let verdict = Verdict::new(next, Health::Failure).not_executed();
            assert_eq!(decide(&policy(), AttemptResult { verdict, ..failed() }), RetryDecision::Return);
        }
        assert_eq!(decide(&policy(), failed()), RetryDecision::Retry(S));
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        assert_eq!(decide(&policy(), AttemptResult { attempt: 2, ..failed() }), RetryDecision::Retry(2 * S));
        assert_eq!(decide(&policy(), AttemptResult { attempt: 3, ..failed() }), refused(NotRetried::AttemptsSpent));
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        let post = AttemptResult { idempotent: false, ..failed() };
        assert_eq!(decide(&policy(), post), refused(NotRetried::NotIdempotent));
        let unsent = AttemptResult { verdict: RETRY.not_executed(), ..post };
        assert_eq!(decide(&policy(), unsent), RetryDecision::Retry(S));
        let allowed = RetryPolicy { non_idempotent: true, ..policy() };
        assert_eq!(decide(&allowed, post), RetryDecision::Retry(S));
    }

    #[test]
    fn a_body_that_cannot_be_sent_again_is_not() {
        for (upload, reason) in [
            (UploadState::CutShort, NotRetried::BodyCutShort),
            (UploadState::TooLarge, NotRetried::BodyTooLarge),
            (UploadState::Failed, NotRetried::BodyFailed),
        ] {
            assert_eq!(decide(&policy(), AttemptResult { upload, ..failed() }), refused(reason));
        }
    }

    #[test]
    fn a_wait_found_in_prose_lengthens_the_backoff_and_never_shortens_it() {
        let advised = |wait| AttemptResult {
            verdict: Verdict::new(NextStep::retry(Some(RetryAfter::advice(wait))), Health::Throttled),
            retry_after: Some(wait),
            ..failed()
        };
        for seed in 0..100 {
            let decide = |result| policy().decide(&result, &mut Rng::with_seed(seed));
            assert_eq!(decide(advised(Duration::from_nanos(1))), decide(failed()));
            assert_eq!(decide(advised(10 * S)), RetryDecision::Retry(10 * S));
        }
        assert_eq!(decide(&policy(), advised(61 * S)), refused(NotRetried::RetryAfterTooLong));
    }

    #[test]
    fn a_wait_that_is_asked_for_is_obeyed_or_there_is_no_retry() {
        let asked = |asked| AttemptResult { retry_after: Some(asked), ..failed() };
        for seed in 0..100 {
            let RetryDecision::Retry(wait) = policy().decide(&asked(10 * S), &mut Rng::with_seed(seed)) else {
                panic!("not retried");
            };
            assert!(wait >= 10 * S && wait <= 15 * S, "{wait:?}");
        }
        assert_eq!(decide(&policy(), asked(60 * S)), RetryDecision::Retry(60 * S));
        assert_eq!(decide(&policy(), asked(61 * S)), refused(NotRetried::RetryAfterTooLong));
        assert_eq!(decide(&policy(), asked(Duration::MAX)), refused(NotRetried::RetryAfterTooLong));
        // "At once" names no wait.
        assert_eq!(decide(&policy(), asked(Duration::ZERO)), RetryDecision::Retry(S));
    }

    #[test]
    fn no_wait_ends_at_the_deadline_or_later() {
        let by = |remaining, asked| {
            decide(&policy(), AttemptResult { remaining: Some(remaining), retry_after: asked, ..failed() })
        };
        assert_eq!(by(S, None), refused(NotRetried::Deadline));
        assert_eq!(by(2 * S, None), RetryDecision::Retry(S));
        assert_eq!(by(5 * S, Some(5 * S)), refused(NotRetried::Deadline));
        assert!(matches!(by(5 * S, Some(4 * S)), RetryDecision::Retry(_)));
        assert_eq!(by(Duration::ZERO, None), refused(NotRetried::Deadline));
    }

    #[test]
    fn no_attempt_starts_after_the_time_for_all_of_them() {
        let policy = RetryPolicy { max_elapsed: Some(10 * S), ..policy() };
        let at = |elapsed, retry_after| decide(&policy, AttemptResult { elapsed, retry_after, ..failed() });
        assert_eq!(at(9 * S, None), RetryDecision::Retry(S));
        assert_eq!(at(9 * S + S / 2, None), refused(NotRetried::MaxElapsed));
        assert_eq!(at(11 * S, None), refused(NotRetried::MaxElapsed));
        assert_eq!(at(5 * S, Some(5 * S)), RetryDecision::Retry(5 * S));
        assert_eq!(at(5 * S, Some(6 * S)), refused(NotRetried::MaxElapsed));
    }

    #[test]
    fn the_reason_is_the_true_one() {
        let other = Verdict::new(NextStep::TryAnother, Health::Failure);
        let result = AttemptResult { verdict: other, ..failed() };
        assert_eq!(decide(&policy(), result), refused(NotRetried::OtherUpstreamNeeded));
        assert_eq!(decide(&policy(), AttemptResult { forbidden: true, ..result }), refused(NotRetried::Forbidden));
        // A request body that failed cannot be sent again.
        let broken = AttemptResult { attempt: 3, idempotent: false, upload: UploadState::Failed, ..failed() };
        assert_eq!(decide(&policy(), broken), refused(NotRetried::BodyFailed));
    }

    #[test]
    fn what_a_callers_sdk_would_only_repeat_is_final() {
        let is_final = |result: AttemptResult| result.is_final(decide(&policy(), result));
        assert!(!is_final(failed()));
        assert!(is_final(AttemptResult { attempt: 3, ..failed() }), "attempts are spent");
        assert!(failed().is_final(refused(NotRetried::Budget)));

        // A first-byte timeout, a connect timeout, a spent quota: the SDK would retry.
        let other = |health, status| {
            let status = StatusCode::from_u16(status).ok();
            AttemptResult { verdict: Verdict::new(NextStep::TryAnother, health), status, ..failed() }
        };
        for (health, status) in [(Health::Failure, 504), (Health::Failure, 0), (Health::Success, 429)] {
            assert!(is_final(other(health, status)), "{status}");
        }
        // The SDK does not retry these by itself, or knows when.
        for (health, status) in [(Health::Success, 401), (Health::Success, 413), (Health::Ignored, 503)] {
            assert!(!is_final(other(health, status)), "{status}");
            assert!(is_final(AttemptResult { attempt: 2, ..other(health, status) }), "{status}, after a retry");
        }

        let asked = |secs| AttemptResult { retry_after: Some(secs * S), ..failed() };
        assert!(!is_final(asked(90)), "the caller waits");
        assert!(is_final(asked(121)), "and would not");
        assert!(!is_final(AttemptResult { idempotent: false, ..failed() }), "the caller may know better");
        let done = Verdict::new(NextStep::Done, Health::Success);
        assert!(!is_final(AttemptResult { verdict: done, attempt: 2, ..failed() }));
    }

    #[test]
    fn a_key_makes_a_post_repeatable() {
        let mut headers = HeaderMap::new();
        assert!(is_idempotent(&Method::GET, &headers) && is_idempotent(&Method::PUT, &headers));
        assert!(!is_idempotent(&Method::POST, &headers) && !is_idempotent(&Method::PATCH, &headers));
        for empty in ["", "\"\""] {
            headers.insert(IDEMPOTENCY_KEY, http::HeaderValue::from_static(empty));
            assert!(!is_idempotent(&Method::POST, &headers), "{empty}");
        }
        headers.insert(IDEMPOTENCY_KEY, http::HeaderValue::from_static("8e03978e"));
        assert!(is_idempotent(&Method::POST, &headers));
    }

    proptest! {
        #[test]
        fn a_retry_never_comes_too_early_nor_too_late(
            asked in any::<Option<Duration>>(), small in 0..200_u64, remaining in any::<Option<Duration>>(),
            left in 0..200_u64, elapsed in 0..50_u64, max in 0..100_u32, attempt in 1..100_u32, waited in any::<Duration>(), seed in any::<u64>(),
            jitter in prop_oneof![Just(Jitter::Full), Just(Jitter::Equal), Just(Jitter::Decorrelated)],
        ) {
            let elapsed = Duration::from_secs(elapsed);
            for (asked, remaining) in [
                (asked, remaining),
                (Some(Duration::from_secs(small)), Some(Duration::from_secs(left))),
            ] {
                let max_elapsed = Some(100 * S);
                let mut policy = RetryPolicy { attempts: u32::MAX, max_retry_after: S * max, max_elapsed, ..policy() };
                policy.backoff.jitter = jitter;
                let result = AttemptResult { retry_after: asked, remaining, attempt, waited, elapsed, ..failed() };
                if let RetryDecision::Retry(wait) = policy.decide(&result, &mut Rng::with_seed(seed)) {
                    prop_assert!(remaining.is_none_or(|remaining| wait < remaining));
                    prop_assert!(elapsed + wait <= 100 * S);
                    match asked.filter(|asked| !asked.is_zero()) {
                        Some(asked) => prop_assert!(wait >= asked && wait <= policy.max_retry_after),
                        None => prop_assert!(wait <= policy.backoff.cap),
                    }
                }
            }
        }
    }

    #[test]
    fn reasons_have_stable_names() {
        for (reason, name) in [
            (NotRetried::AttemptsSpent, "attempts-spent"),
            (NotRetried::Forbidden, "forbidden"),
            (NotRetried::OtherUpstreamNeeded, "other-upstream-needed"),
            (NotRetried::NotIdempotent, "not-idempotent"),
            (NotRetried::BodyCutShort, "body-cut-short"),
            (NotRetried::BodyTooLarge, "body-too-large"),
            (NotRetried::BodyFailed, "body-failed"),
            (NotRetried::RetryAfterTooLong, "retry-after-too-long"),
            (NotRetried::Deadline, "deadline"),
            (NotRetried::MaxElapsed, "max-elapsed"),
            (NotRetried::Budget, "budget"),
        ] {
            assert_eq!((reason.as_str(), reason.to_string().as_str()), (name, name));
        }
    }

    #[test]
    fn an_answer_after_a_retry_is_final_and_the_first_is_not() {
        let given_up = Verdict::new(NextStep::GiveUp, Health::Success);
        for (attempt, is_final) in [(1, false), (2, true)] {
            let result = AttemptResult { verdict: given_up, attempt, ..failed() };
            assert_eq!(result.is_final(RetryDecision::Return), is_final, "{attempt}");
            assert!(!result.is_final(RetryDecision::Retry(S)));
        }
        let asked = |seconds| AttemptResult { retry_after: Some(seconds * S), ..failed() };
        assert!(!asked(120).is_final(refused(NotRetried::RetryAfterTooLong)), "as long as an SDK waits");
        assert!(asked(121).is_final(refused(NotRetried::RetryAfterTooLong)));
    }
}
