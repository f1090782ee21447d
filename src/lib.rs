//! Composable [tower] layers that keep HTTP calls to slow, flaky, *streaming* upstreams standing.
//!
//! Each concern is one [`Layer`](tower_layer::Layer); stack only what you need: on an axum server with `.layer(..)`,
//! around a hyper client in a `ServiceBuilder`, under tonic.
//!
//! # The layers, outermost first
//!
//! | Layer | Bounds | Why there |
//! |---|---|---|
//! | [`RejectionsAsErrorsLayer`] | nothing: makes refusals typed errors | last to touch the answer |
//! | [`SseHeartbeatLayer`] | the silence of an event stream, which it fills | its bytes must not feed a timer below |
//! | [`DeadlineLayer`] | the whole call and its body | bounds everything, waits included |
//! | [`DedupLayer`] | nothing: shares calls | one flight, whatever happens below |
//! | [`FallbackLayer`] | nothing: asks a backup | sees the final outcome of the primary |
//! | [`RetryAfterBackoffLayer`] | the attempts | each attempt passes everything below |
//! | [`CircuitBreakerLayer`] | nothing: refuses at once | sees each attempt, and the timeouts below |
//! | [`IdleBodyTimeoutLayer`] | the longest silence of the body | per attempt; begins where the next one ends |
//! | [`FirstByteTimeoutLayer`] | the wait for the first data | per attempt |
//! | the client, with [`ConnectTimeoutLayer`] on its connector | a connection | sees connections, not requests |
//!
//! # What holds for all of them
//!
//! - **A refusal is a response.** No layer changes the service's error type: what must be refused is answered with a
//!   504, 503 or 502 that carries a [`Rejection`]. (A connector has no responses; there it is an error.)
//! - **A ready result beats a timer.** A frame that is there is handed on, however slow its reader is.
//! - **The good path is free.** A timer is made when something is pending, and moved only when it fires.
//! - **Bytes pass unchanged**, trailers included; length and end are forwarded. Only [`SseHeartbeatLayer`] adds bytes. After
//!   an error or the end a body is fused, and the inner body is dropped at once: that is what closes the upstream's connection.
//! - **Step aside, never break.** What a layer cannot treat passes untouched, with an [`Event`].
//! - **Every layer can be off**: `disabled()` keeps the types.
//!
//! # Where things are
//!
//! `proto` reads and writes what is on the wire, `policy` decides, `rt` waits, `body` streams, [`store`] remembers, and each folder of
//! `layers` puts them together. A body that fails does so with one of the structs in [`error`].
//!
//! [tower]: https://docs.rs/tower

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod error;
mod event;
mod rejection;

mod body;
mod layers;
mod policy;
pub mod proto;
mod rt;
pub mod store;

pub use self::body::replay::ReplayBody;
pub use self::body::upload::UploadBody;
pub use self::event::{Event, Observer};
pub use self::layers::circuit_breaker::{
    CircuitBreaker, CircuitBreakerBody, CircuitBreakerFuture, CircuitBreakerHandle, CircuitBreakerLayer,
    HealthProbeLayer, SlowBy,
};
pub use self::layers::connect_timeout::{ConnectTimeout, ConnectTimeoutFuture, ConnectTimeoutLayer};
pub use self::layers::deadline::{DeadlineBody, DeadlineFuture, DeadlineLayer, DeadlineService};
pub use self::layers::dedup::{Dedup, DedupBody, DedupFuture, DedupLayer, DedupRequestBody, DedupRole, InFlight};
pub use self::layers::fallback::{Fallback, FallbackBody, FallbackFuture, FallbackLayer, ServedBy};
pub use self::layers::first_byte_timeout::{
    FirstByte, FirstByteTimeout, FirstByteTimeoutBody, FirstByteTimeoutFuture, FirstByteTimeoutLayer,
};
pub use self::layers::idle_body_timeout::{
    Activity, IdleBodyTimeout, IdleBodyTimeoutBody, IdleBodyTimeoutFuture, IdleBodyTimeoutLayer,
};
pub use self::layers::rejections_as_errors::{RejectionsAsErrors, RejectionsAsErrorsFuture, RejectionsAsErrorsLayer};
pub use self::layers::retry_after_backoff::{
    Attempt, Attempts, NoRetry, RetryAfterBackoff, RetryAfterBackoffFuture, RetryAfterBackoffLayer,
};
pub use self::layers::sse_heartbeat::{
    BegunEarly, CustomFrame, EarlySseHeartbeat, EarlySseHeartbeatBody, EarlySseHeartbeatFuture, EarlySseHeartbeatLayer,
    ExpectsEventStream, HeartbeatFrame, SseHeartbeat, SseHeartbeatBody, SseHeartbeatFuture, SseHeartbeatLayer,
};
pub use self::policy::backoff::Jitter;
pub use self::policy::breaker::report::{CircuitCause, CircuitChange, CircuitFigures, CircuitSnapshot, CircuitState};
pub use self::policy::budget::RetryBudget;
pub use self::policy::retry::NotRetried;
pub use self::policy::timeout_profile::TimeoutProfile;
pub use self::policy::verdict;
pub use self::policy::window::CircuitWindow;
pub use self::proto::deadline::DeadlineHeader;
pub use self::rejection::{Rejection, RejectionKind, Wire};
pub use self::rt::deadline::{Deadline, DeadlineScope};

// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
