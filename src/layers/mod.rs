//! One folder per layer: what it is for in `mod.rs`, then `layer.rs`, `service.rs`, and what it returns. Each is a public
//! module at the root of the crate.

pub mod any_error;
pub mod circuit_breaker;
pub mod connect_timeout;
pub mod deadline;
pub mod dedup;
pub mod fallback;
pub mod first_byte_timeout;
pub mod grpc_status;
pub mod idle_body_timeout;
pub mod inspect_request;
#[cfg(feature = "llm")]
pub mod last_good;
pub mod observe;
pub mod pace;
pub mod queue;
pub mod rejections_as_errors;
#[cfg(feature = "llm")]
pub mod resume;
pub mod retry_after_backoff;
pub mod sse_heartbeat;
#[cfg(feature = "llm")]
pub mod stream_guard;
#[cfg(feature = "schema")]
pub mod structured_output;
pub mod supersede;
pub mod timeout_profile;
