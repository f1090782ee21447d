//! One integration binary, one file per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod architecture;
mod circuit_breaker;
mod compositions;
mod connect_timeout;
mod contract;
mod deadline;
mod dedup;
mod fallback;
mod first_byte_timeout;
mod forget;
#[cfg(feature = "metrics")]
mod gauges;
mod grpc_status;
mod idle_body_timeout;
mod inspect_request;
#[cfg(feature = "llm")]
mod last_good;
mod memory;
mod observe;
mod pace;
mod presets;
mod presets_over_sockets;
mod queue;
mod ready_frames;
#[cfg(feature = "llm")]
mod resume;
mod retries_over_sockets;
mod retry_after_backoff;
mod secrets;
#[cfg(feature = "tracing")]
mod spans;
mod sse_heartbeat;
#[cfg(feature = "llm")]
mod stream_guard;
#[cfg(feature = "schema")]
mod structured_output;
mod supersede;
mod support;
mod suspension;
mod telemetry;
mod verdicts;
mod write_timeout;

#[cfg(feature = "llm")]
#[path = "../../src/proto/dialect/tests/golden.rs"]
#[allow(dead_code, reason = "what the tests of the readers look at")]
mod golden;
#[path = "../../src/proto/sse/tests/model.rs"]
#[allow(dead_code, reason = "what the tests of the parser look at")]
mod sse_model;
#[path = "../../src/proto/sse/tests/streams.rs"]
mod sse_streams;
