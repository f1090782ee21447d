//! Maps an upstream's error to the next step: one function for the bodies of 4xx and 5xx, for errors inside a 200, and
//! for errors inside a stream.

use std::time::SystemTime;

use http::{HeaderMap, Response, StatusCode};

use self::table::{Class, Row};
use super::verdict::{Classify, Matter, NextStep, Outcome, Standard, Verdict};
use crate::proto::dialect::{Fault, wait_in_prose};
use crate::proto::rate_limit;
use crate::proto::retry_after::{RetryAfter, retry_after};

mod table;

/// The judgement of an upstream's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    /// The status of the error, or the status it would have had as an answer.
    pub(crate) status: StatusCode,
    /// When the upstream asked to be tried again, even if a retry is not the next step.
    pub(crate) retry_after: Option<RetryAfter>,
}

/// Judges an error by its content, or else by the status of its answer; `status` is `None` for an error inside a 200.
///
/// `now` is the time of day, for limits that name the time of their reset.
pub(crate) fn judge(
    fault: Option<&Fault>,
    status: Option<StatusCode>,
    headers: &HeaderMap,
    filtered: NextStep,
    now: SystemTime,
) -> Judgement {
    let row = fault.and_then(|fault| row(fault, status));
    let own = status.or_else(|| StatusCode::from_u16(fault?.status()?).ok());
    let mapped = own.or_else(|| StatusCode::from_u16(row?.status).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut verdict = row.map_or_else(|| of_status(mapped, headers), |row| row.class.verdict());
    if row.is_some_and(|row| row.class == Class::Policy) {
        verdict = verdict.with_next(filtered);
    }
    // With these statuses the upstream refused the credential, whatever the body says.
    if matches!(mapped.as_u16(), 401 | 402 | 403 | 407 | 429) && verdict.matter == Matter::Upstream {
        verdict = verdict.with_matter(Matter::Credential);
    }
    // The body does not revoke what the status proves.
    if status.is_some_and(|status| of_status(status, headers).not_executed) {
        verdict = verdict.not_executed();
    }
    let hint = hint(fault, mapped, headers, now);
    if let NextStep::Retry { .. } = verdict.next {
        verdict = verdict.with_next(NextStep::retry(hint));
    }
    Judgement { verdict, status: mapped, retry_after: hint }
}

/// Returns the row of the most precise known name; a general name counts only if no status is more precise.
fn row(fault: &Fault, status: Option<StatusCode>) -> Option<&'static Row> {
    let row = fault.names().find_map(table::of_name);
    let has_status = status.is_some() || fault.status().is_some();
    let general = row.is_none_or(|row| row.is_general());
    let throttled = row.is_some_and(|row| row.class == Class::Throttled)
        || status.map(|status| status.as_u16()).or(fault.status()) == Some(429);
    if let Some(marked) = table::of_message(fault.message(), general, throttled) {
        return Some(marked);
    }
    let payment = status == Some(StatusCode::PAYMENT_REQUIRED) || fault.status() == Some(402);
    if payment && !row.is_some_and(|row| matches!(row.class, Class::Policy | Class::TooLarge)) {
        return Some(&table::BILLING);
    }
    let missing = status.map(|status| status.as_u16()).or(fault.status()) == Some(404);
    if missing && general && table::names_a_model(fault.message()) {
        return table::of_name("model_not_found");
    }
    row.filter(|_| !(general && has_status))
}

/// The code or the type of an error, if providers are known to send it. Any other text may contain parts of the prompt.
pub(crate) fn known_name(fault: &Fault) -> Option<&'static str> {
    [fault.code(), fault.type_name()].into_iter().flatten().find_map(table::known)
}

fn of_status(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let mut head = Response::new(());
    *head.status_mut() = status;
    headers.clone_into(head.headers_mut());
    Standard::new().classify(&Outcome::head(&head))
}

/// When the upstream wants to be tried again: machine-readable fields first. A wait in prose is only advice.
fn hint(fault: Option<&Fault>, status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<RetryAfter> {
    let busy = matches!(status.as_u16(), 429 | 503 | 529);
    retry_after(headers)
        .or_else(|| fault?.retry_delay().map(RetryAfter::from))
        .or_else(|| rate_limit::exhausted(&rate_limit::quotas(headers, now)).filter(|_| busy).map(RetryAfter::from))
        .or_else(|| fault.filter(|_| busy).and_then(|fault| wait_in_prose(fault.message())).map(RetryAfter::advice))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderName;

    use super::*;
    use crate::policy::verdict::Health;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[track_caller]
    fn judged(status: u16, lines: &[(&'static str, &'static str)], body: &str) -> Judgement {
        let status = (status != 200).then(|| StatusCode::from_u16(status).unwrap());
        let fault = Fault::of_body(body.as_bytes());
        judge(fault.as_ref(), status, &headers(lines), NextStep::GiveUp, SystemTime::UNIX_EPOCH)
    }

    /// The next step, the health, the matter and the status; status 200: inside a stream or answer.
    #[track_caller]
    fn check(status: u16, body: &str, next: NextStep, health: Health, matter: Matter, mapped: u16) {
        let judgement = judged(status, &[], body);
        let Verdict { next: found, .. } = judgement.verdict;
        let same_step = std::mem::discriminant(&found) == std::mem::discriminant(&next);
        assert!(same_step, "{found:?} for {status} {body}");
        let judged = (judgement.verdict.health, judgement.verdict.matter, judgement.status.as_u16());
        assert_eq!(judged, (health, matter, mapped), "{status} {body}");
    }

    const RETRY: NextStep = NextStep::retry(None);

    #[test]
    fn an_upstream_that_is_overloaded_or_failed_is_asked_again() {
        let check = |status, body, mapped| check(status, body, RETRY, Health::Failure, Matter::Upstream, mapped);
        check(200, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, 529);
        check(200, r#"{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}"#, 503);
        check(200, r#"{"error":{"message":"x","type":"server_error","code":null}}"#, 500);
        check(200, r#"{"error":{"message":"x","type":"server_error","code":"server_is_overloaded"}}"#, 503);
        check(200, r#"{"object":"error","message":"x","type":"InternalServerError","code":500}"#, 500);
        check(200, r#"{"type":"error","error":{"type":"timeout_error","message":"x"}}"#, 504);
        check(200, r#"{"error":{"code":502,"message":"Provider returned error"}}"#, 502);
        check(200, r#"{"error":"something odd"}"#, 502);
        check(200, "{}", 502);
        check(500, r#"{"error":{"type":"invalid_request_error","message":"x"}}"#, 500);
    }

    #[test]
    fn a_503_with_retry_after_was_not_executed_for_any_body() {
        let body = r#"{"error":{"message":"x","type":"server_error","code":null}}"#;
        assert!(judged(503, &[("retry-after", "1")], body).verdict.not_executed);
        assert!(!judged(503, &[], body).verdict.not_executed);
        assert!(!judged(500, &[("retry-after", "1")], body).verdict.not_executed);
    }

    #[test]
    fn a_limit_that_will_pass_is_waited_for() {
        let check = |status, body| check(status, body, RETRY, Health::Throttled, Matter::Credential, 429);
        check(200, r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#);
        check(429, r#"{"error":{"message":"x","type":"tokens","code":"rate_limit_exceeded"}}"#);
        check(
            429,
            r#"{"error":{"code":429,"message":"You exceeded your current quota. limit: 0.5","status":"RESOURCE_EXHAUSTED"}}"#,
        );
        check(429, "{}");
        check(429, r#"{"message":"Too many tokens, please wait before trying again."}"#);
        check(200, r#"{"error":{"code":429,"message":"Too many tokens, please wait before trying again."}}"#);
    }

    #[test]
    fn a_quota_that_is_spent_is_the_credentials_matter_and_no_illness() {
        let check = |status, body, mapped| {
            check(status, body, NextStep::TryAnother, Health::Success, Matter::Credential, mapped);
        };
        check(429, r#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#, 429);
        check(200, r#"{"type":"error","code":"insufficient_quota","message":"x"}"#, 429);
        check(
            429,
            r#"{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
            429,
        );
        check(
            400,
            r#"{"error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will"}}"#,
            400,
        );
        check(402, r#"{"error":{"code":402,"message":"Insufficient credits"}}"#, 402);
        check(200, r#"{"error":{"code":402,"message":"Insufficient credits"}}"#, 402);
        check(402, r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#, 402);
        check(402, r#"{"error":{"type":"server_error","message":"x"}}"#, 402);
        check(
            429,
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}"#,
            429,
        );
        check(
            429,
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"quota x, limit: 0, model: y"}}"#,
            429,
        );
    }

    #[test]
    fn a_credential_that_is_refused_is_its_own_matter() {
        let check = |status, body, mapped| {
            check(status, body, NextStep::TryAnother, Health::Success, Matter::Credential, mapped);
        };
        check(401, r#"{"error":{"message":"x","type":"invalid_request_error","code":"invalid_api_key"}}"#, 401);
        check(200, r#"{"type":"error","error":{"type":"authentication_error","message":"x"}}"#, 401);
        check(403, r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#, 403);
        check(404, r#"{"error":{"message":"x","type":"invalid_request_error","code":"model_not_found"}}"#, 404);
        check(401, "{}", 401);
        check(
            400,
            r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#,
            400,
        );
        // Ollama; vLLM.
        check(404, r#"{"error":"model \"x\" not found, try pulling it first"}"#, 404);
        let missing =
            r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}"#;
        check(404, missing, 404);
        check(200, missing, 404);
    }

    #[test]
    fn a_prompt_that_is_too_long_may_fit_another_model() {
        let check =
            |status, body, mapped| check(status, body, NextStep::TryAnother, Health::Success, Matter::Request, mapped);
        check(400, r#"{"error":{"message":"x","type":"invalid_request_error","code":"context_length_exceeded"}}"#, 400);
        check(
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}"#,
            400,
        );
        check(
            400,
            r#"{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens","status":"INVALID_ARGUMENT"}}"#,
            400,
        );
        check(
            400,
            r#"{"object":"error","message":"This model's maximum context length is 8 tokens","type":"BadRequestError","code":400}"#,
            400,
        );
        check(400, r#"{"message":"too many tokens: total number of tokens in the prompt cannot exceed 8"}"#, 400);
        check(413, r#"{"type":"error","error":{"type":"request_too_large","message":"x"}}"#, 413);
        let tpm = r#"{"error":{"message":"Request too large for gpt-5 on tokens per min (TPM): Limit 10, Requested 12.","code":"rate_limit_exceeded"}}"#;
        check(429, tpm, 429);
    }

    #[test]
    fn what_the_request_asks_for_is_not_asked_again() {
        let check = |status, body| check(status, body, NextStep::GiveUp, Health::Success, Matter::Request, 400);
        check(400, r#"{"error":{"code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#);
        check(200, r#"{"type":"response.failed","error":{"code":"invalid_prompt","message":"x"}}"#);
        check(400, r#"{"error":{"message":"x","type":"invalid_request_error","code":null}}"#);
        check(200, r#"{"error":{"message":"x","type":"invalid_request_error","code":null}}"#);
        let fault = Fault::of_code("content_policy_violation");
        let judgement = judge(Some(&fault), None, &HeaderMap::new(), NextStep::TryAnother, SystemTime::UNIX_EPOCH);
        assert_eq!(judgement.verdict.next, NextStep::TryAnother, "as it was told to");
    }

    #[test]
    fn a_credential_is_never_taken_for_the_upstreams_matter() {
        for status in [401, 402, 403, 407, 429] {
            let judgement = judged(status, &[], r#"{"error":{"type":"server_error","code":"engine_overloaded"}}"#);
            assert_eq!(judgement.verdict.matter, Matter::Credential, "{status}");
        }
    }

    fn wait(status: u16, lines: &[(&'static str, &'static str)], body: &str) -> Option<Duration> {
        judged(status, lines, body).retry_after.map(|hint| hint.wait(SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn of_several_hints_the_one_for_machines_counts() {
        let info = r#"{"error":{"code":429,"message":"retry in 99s","details":[{"@type":"x/google.rpc.RetryInfo","retryDelay":"46s"}]}}"#;
        let prose = r#"{"error":{"message":"Please try again in 20s","code":"rate_limit_exceeded"}}"#;
        let reset = &[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "7s")];
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(wait(429, &[("retry-after", "3")], info), secs(3));
        assert_eq!(wait(429, reset, info), secs(46));
        assert_eq!(wait(429, reset, prose), secs(7));
        assert_eq!(
            wait(429, &[("x-ratelimit-remaining-tokens", "1"), ("x-ratelimit-reset-tokens", "7s")], prose),
            secs(20)
        );
        assert_eq!(wait(400, reset, r#"{"error":{"message":"try again in 5s"}}"#), None);
        assert_eq!(wait(200, &[], prose), secs(20));
    }

    #[test]
    fn a_wait_in_prose_is_advice_only() {
        let prose = judged(429, &[], r#"{"error":{"message":"Please try again in 20ms"}}"#);
        assert!(prose.verdict.retry_after().unwrap().is_advice());
        let header = judged(429, &[("retry-after", "1")], "{}");
        assert!(!header.verdict.retry_after().unwrap().is_advice());
    }
}
