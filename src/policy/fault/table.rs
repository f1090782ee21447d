//! The error names of providers.

use crate::policy::verdict::{Health, Matter, NextStep, Verdict};

/// Errors with the same consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The upstream is overloaded.
    Overloaded,
    /// The upstream failed.
    Failed,
    /// The credential exceeds its current rate.
    Throttled,
    /// The credential's quota is spent, for hours or until it is paid.
    Spent,
    /// The provider refused the credential, or it may not use that model.
    Refused,
    /// The request is too large for this model; another model may take it.
    TooLarge,
    /// This upstream does not support it; another may.
    Unsupported,
    /// The request violates the provider's content policy.
    Policy,
    /// The request is invalid.
    Invalid,
    /// Two requests conflicted.
    Conflict,
    /// A resource that the credential needs is unreachable for a while.
    Dependency,
}

/// One row: the status that an error of this name would have had, and its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) status: u16,
    pub(super) class: Class,
}

const fn row(status: u16, class: Class) -> Row {
    Row { status, class }
}

pub(super) const BILLING: Row = row(402, Class::Spent);
const SPENT: Row = row(429, Class::Spent);
const TOO_LARGE: Row = row(400, Class::TooLarge);
const THROTTLED: Row = row(429, Class::Throttled);
const POLICY: Row = row(400, Class::Policy);
const BROKEN: Row = row(502, Class::Failed);
/// A customer-managed key that cannot be reached.
const DEPENDENCY: Row = row(503, Class::Dependency);

/// By exact name.
///
/// From the documentation and the client libraries of OpenAI, Anthropic, Google, AWS, Cohere and OpenRouter, as of
/// November 2026; names of others are marked.
const NAMES: &[(&[&str], Row)] = &[
    (&["overloaded_error"], row(529, Class::Overloaded)),
    (
        &[
            "engine_overloaded",
            "server_is_overloaded",
            "overloaded",
            "service_unavailable",
            "service_unavailable_error",
            "UNAVAILABLE",
            "serviceUnavailableException",
            "ServiceUnavailableException",
            // DeepSeek
            "insufficient_system_resource",
        ],
        row(503, Class::Overloaded),
    ),
    (
        &[
            "insufficient_quota",
            "credit_balance_exhausted",
            "billing_hard_limit_reached",
            "billing_not_active",
            "quota_exceeded",
            "enforced_spend_limit_reached",
            "contract_spend_limit_reached",
        ],
        SPENT,
    ),
    (&["billing_error", "insufficient_credits", "payment_required"], BILLING),
    (
        &[
            "rate_limit_error",
            "rate_limit_exceeded",
            "slow_down",
            "too_many_requests",
            "RESOURCE_EXHAUSTED",
            "throttlingException",
            "ThrottlingException",
            "ramp_limit_exceeded",
        ],
        THROTTLED,
    ),
    (&["timeout_error", "DEADLINE_EXCEEDED", "gateway_timeout", "request_timeout", "TIMEOUT"], row(504, Class::Failed)),
    (
        &[
            "server_error",
            "api_error",
            "internal_server_error",
            "internal_error",
            "INTERNAL",
            "internalServerException",
            "InternalServerException",
            "InternalServerError",
            "vector_store_timeout",
            "modelStreamErrorException",
            "ModelStreamErrorException",
        ],
        row(500, Class::Failed),
    ),
    (
        &[
            "context_length_exceeded",
            "string_above_max_length",
            "model_context_window_exceeded",
            // llama.cpp
            "exceed_context_size_error",
        ],
        TOO_LARGE,
    ),
    (&["request_too_large"], row(413, Class::TooLarge)),
    (&["model_not_found", "not_found_error", "NOT_FOUND", "model_not_available"], row(404, Class::Refused)),
    (&["unsupported_value", "unsupported_parameter", "FAILED_PRECONDITION"], row(400, Class::Unsupported)),
    (&["authentication_error", "invalid_api_key", "API_KEY_INVALID", "UNAUTHENTICATED"], row(401, Class::Refused)),
    (
        &[
            "permission_error",
            "PERMISSION_DENIED",
            "unsupported_country_region_territory",
            "sandbox_egress_restricted",
            "organization_on_hold",
        ],
        row(403, Class::Refused),
    ),
    (
        &[
            "content_filter",
            "content_policy_violation",
            "ResponsibleAIPolicyViolation",
            "invalid_prompt",
            "bio_policy",
            "cyber_policy",
            "image_content_policy_violation",
        ],
        POLICY,
    ),
    (
        &["invalid_request_error", "INVALID_ARGUMENT", "validationException", "ValidationException"],
        row(400, Class::Invalid),
    ),
    (&["conflict_error", "ABORTED"], row(409, Class::Conflict)),
    (
        &[
            // Finish reasons: OpenRouter and Mistral; vLLM and SGLang; Zhipu; Cohere; Ollama; Gemini.
            "error",
            "aborted",
            "abort",
            "network_error",
            "ERROR",
            "runner_connection_closed",
            "MALFORMED_FUNCTION_CALL",
            "UNEXPECTED_TOOL_CALL",
            "MALFORMED_RESPONSE",
            "MISSING_THOUGHT_SIGNATURE",
            "TOO_MANY_TOOL_CALLS",
            "OTHER",
        ],
        BROKEN,
    ),
];

/// Marks in messages, for errors without a precise name. All in lower case.
const SPENT_MARKS: &[&str] = &["you have reached your specified api usage limits", "your credit balance is too low"];
const TOO_LARGE_MARKS: &[&str] = &[
    "prompt is too long",
    "too many tokens",
    "exceeds the maximum number of tokens",
    "maximum context length",
    "exceeds the available context size",
];

/// Returns the static copy of this name.
pub(super) fn known(name: &str) -> Option<&'static str> {
    NAMES.iter().find_map(|(names, _)| names.iter().copied().find(|known| *known == name))
}

/// The row of a name.
pub(super) fn of_name(name: &str) -> Option<&'static Row> {
    let found = NAMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, row)| row);
    found.or_else(|| match name {
        name if name.starts_with("linked_organization_") => Some(&SPENT),
        // Google names quotas by their unit and period.
        name if name.contains("PerDay") => Some(&SPENT),
        name if name.starts_with("cmek_") && name.ends_with("_unavailable") => Some(&DEPENDENCY),
        _ => None,
    })
}

/// Returns the row for a message. Messages are not stable: they are matched only if the name is `general`, or means that
/// the credential is `throttled`, which may be permanent.
pub(super) fn of_message(message: &str, general: bool, throttled: bool) -> Option<&'static Row> {
    if !(general || throttled) {
        return None;
    }
    let message = message.to_ascii_lowercase();
    let has = |marks: &[&str]| marks.iter().any(|mark| message.contains(mark));
    if throttled && has(&["request too large"]) {
        // The request alone exceeds the limit: no wait helps.
        return of_name("request_too_large");
    }
    // Google's, for a model that is not in the plan.
    let none_at_all = message.match_indices("limit: 0").any(|(at, mark)| {
        !message
            .get(at + mark.len()..)
            .is_some_and(|behind| behind.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
    });
    if throttled && none_at_all || general && has(SPENT_MARKS) {
        return Some(&SPENT);
    }
    // "Too many tokens, please wait" is a temporary limit of AWS's.
    let will_pass = throttled || has(&["please wait", "try again", "trying again"]);
    (general && !will_pass && has(TOO_LARGE_MARKS)).then_some(&TOO_LARGE)
}

/// Whether the message of a 404 says that the model does not exist: Ollama and vLLM have no name for it.
pub(super) fn names_a_model(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("model") && ["not found", "does not exist"].iter().any(|mark| message.contains(mark))
}

// === impl Row ===

impl Row {
    /// Whether the name says no more than a status.
    pub(super) const fn is_general(&self) -> bool {
        matches!(self.class, Class::Invalid)
    }
}

// === impl Class ===

impl Class {
    pub(super) fn verdict(self) -> Verdict {
        const RETRY: NextStep = NextStep::retry(None);
        let another = |matter| Verdict::new(NextStep::TryAnother, Health::Success).with_matter(matter);
        match self {
            Self::Overloaded | Self::Failed => Verdict::new(RETRY, Health::Failure).with_matter(Matter::Upstream),
            Self::Throttled => Verdict::new(RETRY, Health::Throttled).with_matter(Matter::Credential).not_executed(),
            Self::Spent | Self::Refused => another(Matter::Credential).not_executed(),
            Self::TooLarge | Self::Unsupported => another(Matter::Request).not_executed(),
            Self::Policy | Self::Invalid => {
                Verdict::new(NextStep::GiveUp, Health::Success).with_matter(Matter::Request)
            }
            Self::Conflict => Verdict::new(RETRY, Health::Ignored).with_matter(Matter::Upstream),
            Self::Dependency => Verdict::new(RETRY, Health::Ignored).with_matter(Matter::Credential),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_status_and_a_class() {
        for (name, status, class) in [
            ("overloaded_error", 529, Class::Overloaded),
            ("UNAVAILABLE", 503, Class::Overloaded),
            ("insufficient_quota", 429, Class::Spent),
            ("payment_required", 402, Class::Spent),
            ("rate_limit_exceeded", 429, Class::Throttled),
            ("timeout_error", 504, Class::Failed),
            ("server_error", 500, Class::Failed),
            ("context_length_exceeded", 400, Class::TooLarge),
            ("request_too_large", 413, Class::TooLarge),
            ("model_not_found", 404, Class::Refused),
            ("unsupported_value", 400, Class::Unsupported),
            ("invalid_api_key", 401, Class::Refused),
            ("permission_error", 403, Class::Refused),
            ("content_filter", 400, Class::Policy),
            ("invalid_request_error", 400, Class::Invalid),
            ("ABORTED", 409, Class::Conflict),
            ("network_error", 502, Class::Failed),
            ("linked_organization_disabled", 429, Class::Spent),
            ("GenerateRequestsPerDayPerProject", 429, Class::Spent),
            ("cmek_key_unavailable", 503, Class::Dependency),
        ] {
            let row = of_name(name).unwrap();
            assert_eq!((row.status, row.class), (status, class), "{name}");
            assert_eq!(row.is_general(), class == Class::Invalid, "{name}");
        }
        for name in ["", "cmek_key_missing", "key_unavailable", "a_linked_organization_", "tokens"] {
            assert!(of_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_class_says_what_to_do() {
        let judged = |class: Class| {
            let Verdict { next, health, matter, not_executed } = class.verdict();
            (next, health, matter, not_executed)
        };
        let retry = NextStep::retry(None);
        let failed = (retry, Health::Failure, Matter::Upstream, false);
        assert_eq!((judged(Class::Overloaded), judged(Class::Failed)), (failed, failed));
        assert_eq!(judged(Class::Throttled), (retry, Health::Throttled, Matter::Credential, true));
        let credential = (NextStep::TryAnother, Health::Success, Matter::Credential, true);
        assert_eq!((judged(Class::Spent), judged(Class::Refused)), (credential, credential));
        let request = (NextStep::TryAnother, Health::Success, Matter::Request, true);
        assert_eq!((judged(Class::TooLarge), judged(Class::Unsupported)), (request, request));
        let given_up = (NextStep::GiveUp, Health::Success, Matter::Request, false);
        assert_eq!((judged(Class::Policy), judged(Class::Invalid)), (given_up, given_up));
        assert_eq!(judged(Class::Conflict), (retry, Health::Ignored, Matter::Upstream, false));
        assert_eq!(judged(Class::Dependency), (retry, Health::Ignored, Matter::Credential, false));
    }

    #[test]
    fn a_message_counts_where_its_name_says_little() {
        let of =
            |message, general, throttled| of_message(message, general, throttled).map(|row| (row.status, row.class));
        let (spent, large) = (Some((429, Class::Spent)), Some((400, Class::TooLarge)));
        assert_eq!(of("Your credit balance is TOO low", true, false), spent);
        assert_eq!(of("Your credit balance is too low", false, true), None);
        assert_eq!(of("Prompt is too long", true, false), large);
        assert_eq!((of("prompt is too long", false, false), of("prompt is too long", false, true)), (None, None));
        assert_eq!(of("Too many tokens, please wait before trying again.", true, true), None);
        assert_eq!(of("Too many tokens, please wait before trying again.", true, false), None);
        assert_eq!(of("Request too large", false, true), Some((413, Class::TooLarge)));
        assert_eq!(of("request too large", true, false), None);
        assert_eq!(of("quota, limit: 0", false, true), spent);
        assert_eq!(of("quota, limit: 0, model: x", false, true), spent);
        assert_eq!(of("limit: 0", true, false), None);
        for more in ["limit: 05", "limit: 0.5", "limit: 10"] {
            assert_eq!(of(more, false, true), None, "{more}");
        }
        assert_eq!(of("limit: 0.5, limit: 0", true, true), spent, "one of several");
        assert_eq!(of("anything", true, true), None);
    }
}
