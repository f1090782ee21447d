//! The texts and status codes of refusals.

use http::StatusCode;

use super::kind::RejectionKind;

/// The response to one kind of refusal, in every format. All of it is fixed text, so a refusal leaks nothing about the
/// upstreams and is cheap to build. A message says what happened and, after a semicolon, what to do.
pub(super) struct ProblemTemplate {
    pub(super) name: &'static str,
    pub(super) status: StatusCode,
    pub(super) grpc_status: u8,
    pub(super) message: &'static str,
    pub(super) problem: &'static str,
}

/// Builds one row. A macro, because `concat!`, which keeps the body static, takes only literals.
macro_rules! problem {
    ($name:literal, $status:ident, $code:literal, $title:literal, $grpc:literal, $message:literal) => {
        ProblemTemplate {
            name: $name,
            status: StatusCode::$status,
            grpc_status: $grpc,
            message: $message,
            problem: concat!(
                "{\"type\":\"about:blank\",\"title\":\"",
                $title,
                "\",\"status\":",
                $code,
                ",\"detail\":\"",
                $message,
                "\",\"kind\":\"",
                $name,
                "\"}"
            ),
        }
    };
}

// gRPC codes: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
const FIRST_BYTE_TIMEOUT: ProblemTemplate = problem!(
    "first-byte-timeout",
    GATEWAY_TIMEOUT,
    "504",
    "Gateway Timeout",
    4,
    "The upstream sent no data in time; try again."
);
const DEADLINE_EXCEEDED: ProblemTemplate = problem!(
    "deadline-exceeded",
    GATEWAY_TIMEOUT,
    "504",
    "Gateway Timeout",
    4,
    "The deadline of this call has passed; allow it more time."
);
const BODY_FAILED: ProblemTemplate = problem!(
    "body-failed",
    BAD_GATEWAY,
    "502",
    "Bad Gateway",
    14,
    "The upstream's answer broke off before its first data; try again."
);

const CIRCUIT_OPEN: ProblemTemplate = problem!(
    "circuit-open",
    SERVICE_UNAVAILABLE,
    "503",
    "Service Unavailable",
    14,
    "The upstream is failing, and requests to it are paused; try again later."
);

const KEY_INVALID: ProblemTemplate = problem!(
    "idempotency-key-invalid",
    BAD_REQUEST,
    "400",
    "Bad Request",
    3,
    "The Idempotency-Key is not valid; send one string of at most 255 characters, quoted or bare."
);
const KEY_REQUIRED: ProblemTemplate = problem!(
    "idempotency-key-required",
    BAD_REQUEST,
    "400",
    "Bad Request",
    3,
    "This request has no Idempotency-Key; send one with it."
);
const KEY_REUSED: ProblemTemplate = problem!(
    "idempotency-key-reused",
    UNPROCESSABLE_ENTITY,
    "422",
    "Unprocessable Entity",
    3,
    "This Idempotency-Key was used for a request with another payload; send another key."
);
const KEY_IN_FLIGHT: ProblemTemplate = problem!(
    "idempotency-key-in-flight",
    CONFLICT,
    "409",
    "Conflict",
    10,
    "A request with this Idempotency-Key is being answered; try again later."
);
const DEDUP_STORE_FULL: ProblemTemplate = problem!(
    "dedup-store-full",
    SERVICE_UNAVAILABLE,
    "503",
    "Service Unavailable",
    8,
    "The idempotency store is full; try again later."
);
const DEDUP_STORE_UNREACHABLE: ProblemTemplate = problem!(
    "dedup-store-unreachable",
    SERVICE_UNAVAILABLE,
    "503",
    "Service Unavailable",
    14,
    "The idempotency store is unreachable or refuses, so this Idempotency-Key may have been used; try again later."
);
const SHARED_CALL_FAILED: ProblemTemplate = problem!(
    "shared-call-failed",
    BAD_GATEWAY,
    "502",
    "Bad Gateway",
    14,
    "An identical request was already in progress and failed; try again."
);
const UPSTREAM_FAILED: ProblemTemplate = problem!(
    "upstream-failed",
    BAD_GATEWAY,
    "502",
    "Bad Gateway",
    14,
    "The upstream gave no answer, or not a whole one; try again."
);

const PACED: ProblemTemplate = problem!(
    "paced",
    TOO_MANY_REQUESTS,
    "429",
    "Too Many Requests",
    8,
    "The rate limit leaves no room for this call at the moment; try again later."
);
const QUEUE_FULL: ProblemTemplate = problem!(
    "queue-full",
    SERVICE_UNAVAILABLE,
    "503",
    "Service Unavailable",
    8,
    "Too many calls are waiting for the upstream; try again later."
);
const SUPERSEDED: ProblemTemplate = problem!(
    "superseded",
    GONE,
    "410",
    "Gone",
    10,
    "A newer message of this conversation replaced this one; do not send it again."
);
const CONVERSATION_BUSY: ProblemTemplate = problem!(
    "conversation-busy",
    CONFLICT,
    "409",
    "Conflict",
    10,
    "Another message of this conversation is being answered; wait for its end."
);

const ANSWER_GONE: ProblemTemplate =
    problem!("answer-gone", GONE, "410", "Gone", 5, "There is no answer here, or no longer; send the request again.");
const EVENT_ID_UNKNOWN: ProblemTemplate = problem!(
    "event-id-unknown",
    PRECONDITION_FAILED,
    "412",
    "Precondition Failed",
    9,
    "The Last-Event-ID is not one of this answer; ask without it."
);

// === impl ProblemTemplate ===

impl ProblemTemplate {
    pub(super) const fn of(kind: RejectionKind) -> &'static Self {
        match kind {
            RejectionKind::FirstByteTimeout => &FIRST_BYTE_TIMEOUT,
            RejectionKind::DeadlineExceeded => &DEADLINE_EXCEEDED,
            RejectionKind::BodyFailed => &BODY_FAILED,
            RejectionKind::CircuitOpen => &CIRCUIT_OPEN,
            RejectionKind::IdempotencyKeyInvalid => &KEY_INVALID,
            RejectionKind::IdempotencyKeyRequired => &KEY_REQUIRED,
            RejectionKind::IdempotencyKeyReused => &KEY_REUSED,
            RejectionKind::IdempotencyKeyInFlight => &KEY_IN_FLIGHT,
            RejectionKind::DedupStoreFull => &DEDUP_STORE_FULL,
            RejectionKind::DedupStoreUnreachable => &DEDUP_STORE_UNREACHABLE,
            RejectionKind::SharedCallFailed => &SHARED_CALL_FAILED,
            RejectionKind::Paced => &PACED,
            RejectionKind::QueueFull => &QUEUE_FULL,
            RejectionKind::Superseded => &SUPERSEDED,
            RejectionKind::ConversationBusy => &CONVERSATION_BUSY,
            RejectionKind::UpstreamFailed => &UPSTREAM_FAILED,
            RejectionKind::AnswerGone => &ANSWER_GONE,
            RejectionKind::EventIdUnknown => &EVENT_ID_UNKNOWN,
        }
    }
}
