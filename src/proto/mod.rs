//! WIRE: bytes and headers to values and back. Knows no time but what it is given.

pub mod deadline;
pub(crate) mod event_stream;
pub mod grpc;
pub mod retry_after;
pub mod sse;
