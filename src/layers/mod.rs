//! One folder per layer: what it is for in `mod.rs`, then `layer.rs`, `service.rs`, and what it returns.

pub(crate) mod any_error;
pub(crate) mod circuit_breaker;
pub(crate) mod connect_timeout;
pub(crate) mod deadline;
pub(crate) mod dedup;
pub(crate) mod fallback;
pub(crate) mod first_byte_timeout;
pub(crate) mod grpc_status;
pub(crate) mod idle_body_timeout;
pub(crate) mod inspect_request;
#[cfg(feature = "llm")]
pub(crate) mod last_good;
pub(crate) mod observe;
pub(crate) mod pace;
pub(crate) mod queue;
pub(crate) mod rejections_as_errors;
#[cfg(feature = "llm")]
pub(crate) mod resume;
pub(crate) mod retry_after_backoff;
pub(crate) mod sse_heartbeat;
#[cfg(feature = "llm")]
pub(crate) mod stream_guard;
#[cfg(feature = "schema")]
pub(crate) mod structured_output;
pub(crate) mod supersede;
pub(crate) mod timeout_profile;
