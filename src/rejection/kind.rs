/// The reasons for which a layer refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The upstream sent no data in time. 504, gRPC `DEADLINE_EXCEEDED`.
    FirstByteTimeout,
    /// The call's deadline passed, or was too near to begin. 504, gRPC `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// The response body failed before its first data. 502, gRPC `UNAVAILABLE`.
    BodyFailed,
    /// The upstream has been failing, and is not asked for a while. 503, gRPC `UNAVAILABLE`.
    CircuitOpen,
    /// The `Idempotency-Key` is not one. 400, gRPC `INVALID_ARGUMENT`.
    IdempotencyKeyInvalid,
    /// There is no `Idempotency-Key`, and there has to be one. 400, gRPC `INVALID_ARGUMENT`.
    IdempotencyKeyRequired,
    /// The `Idempotency-Key` was used for another payload. 422, gRPC `INVALID_ARGUMENT`.
    IdempotencyKeyReused,
    /// The `Idempotency-Key` is being answered, and this caller cannot hear it. 409, gRPC `ABORTED`.
    IdempotencyKeyInFlight,
    /// No more keys can be kept, and this caller asked for one to be; or no more can be held for callers of this tenant that
    /// come back to an answer which another process has. 503, gRPC `RESOURCE_EXHAUSTED`.
    DedupStoreFull,
    /// The call that this caller had joined came to nothing before its head. 502, gRPC `UNAVAILABLE`.
    SharedCallFailed,
    /// A rate limit leaves no room for this call in the time that it can wait. 429, gRPC `RESOURCE_EXHAUSTED`.
    Paced,
    /// Too many calls wait for the upstream already. 503, gRPC `RESOURCE_EXHAUSTED`.
    QueueFull,
    /// A newer message of the same conversation took this call's place, or the call was cancelled. It is not to be tried
    /// again. 410, gRPC `ABORTED`.
    Superseded,
    /// Another message of the same conversation is under way, and this one is not to end it. 409, gRPC `ABORTED`.
    ConversationBusy,
    /// The upstream's answer told of an error behind a 200, or was cut, before any of it was handed on; or the upstream to which the
    /// call is bound gave no answer. The response has the status that the error would have had; 502, gRPC `UNAVAILABLE`, where it
    /// has none.
    UpstreamFailed,
    /// There is no answer that this caller could come back to at this URL: there never was, its time is over, it was stopped, or
    /// nothing of it is left but the error that ended it. 410, gRPC `NOT_FOUND`.
    AnswerGone,
    /// The `Last-Event-ID` is not one of this answer. 412, gRPC `FAILED_PRECONDITION`.
    EventIdUnknown,
}
