/// Why a layer refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The upstream sent no data in time. 504, gRPC `DEADLINE_EXCEEDED`.
    FirstByteTimeout,
    /// The call's deadline passed, or left too little time to start. 504, gRPC `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// The response body failed before its first data. 502, gRPC `UNAVAILABLE`.
    BodyFailed,
    /// The upstream is failing, and requests to it are paused. 503, gRPC `UNAVAILABLE`.
    CircuitOpen,
    /// The `Idempotency-Key` is not valid. 400, gRPC `INVALID_ARGUMENT`.
    IdempotencyKeyInvalid,
    /// The request has no `Idempotency-Key`, and one is required. 400, gRPC `INVALID_ARGUMENT`.
    IdempotencyKeyRequired,
    /// The `Idempotency-Key` was used for another payload. 422, gRPC `INVALID_ARGUMENT`.
    IdempotencyKeyReused,
    /// A request with the same `Idempotency-Key` is in flight, and this caller cannot share its answer. 409, gRPC
    /// `ABORTED`.
    IdempotencyKeyInFlight,
    /// The store has no room for the key that this caller sent; or this process holds too many answers of other processes
    /// for callers of this tenant that came back. 503, gRPC `RESOURCE_EXHAUSTED`.
    DedupStoreFull,
    /// The store, which other processes share, cannot say whether one of them has used the key that this caller sent.
    /// 503, gRPC `UNAVAILABLE`.
    DedupStoreUnreachable,
    /// The shared call that this caller had joined failed before its head. 502, gRPC `UNAVAILABLE`.
    SharedCallFailed,
    /// A rate limit leaves no room for this call within the time that it can wait. 429, gRPC `RESOURCE_EXHAUSTED`.
    Paced,
    /// Too many calls already wait for the upstream. 503, gRPC `RESOURCE_EXHAUSTED`.
    QueueFull,
    /// A newer message of the same conversation replaced this call, or the call was cancelled. Do not retry it. 410, gRPC
    /// `ABORTED`.
    Superseded,
    /// Another message of the same conversation is in flight, and this message does not replace it. 409, gRPC `ABORTED`.
    ConversationBusy,
    /// The upstream's answer contained an error behind a 200, or was truncated, before any of it was forwarded; or the
    /// upstream to which the call is bound gave no answer. The response has the status that matches the error, else 502;
    /// gRPC `UNAVAILABLE`.
    UpstreamFailed,
    /// The URL has no answer for this caller to come back to: it never had one, the answer expired or was stopped, or
    /// only the error that ended it is left. 410, gRPC `NOT_FOUND`.
    AnswerGone,
    /// The `Last-Event-ID` names no event of this answer. 412, gRPC `FAILED_PRECONDITION`.
    EventIdUnknown,
}
