//! WIRE: bytes and headers to values and back. Knows no time but what it is given.

#[cfg(feature = "json")]
pub mod canonical_json;
pub mod credentials;
pub mod deadline;
pub mod dialect;
pub(crate) mod event_stream;
pub(crate) mod fingerprint;
pub mod grpc;
pub(crate) mod http_date;
pub mod idempotency_key;
pub(crate) mod json_object;
pub(crate) mod list;
pub(crate) mod media_type;
#[cfg(feature = "llm")]
pub(crate) mod output_format;
pub(crate) mod prefer;
#[cfg(feature = "llm")]
pub(crate) mod prompt;
pub mod rate_limit;
#[cfg(feature = "llm")]
pub(crate) mod resume;
pub mod retry_after;
pub mod sse;
