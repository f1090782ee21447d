#![doc = include_str!("../docs/start.md")]
#![doc = include_str!("../docs/layers.md")]
#![doc = include_str!("../docs/recipes.md")]
#![doc = include_str!("../docs/faults.md")]
#![doc = include_str!("../docs/migration.md")]
#![doc = include_str!("../docs/testing.md")]
#![doc = include_str!("../docs/rules.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout)]

#[cfg(test)]
extern crate self as tower_buttress;

#[cfg(feature = "tower")]
mod builder;
mod call;
pub mod error;
mod event;
mod rejection;

mod admission;
mod body;
mod layers;
mod policy;
pub mod presets;
pub mod proto;
mod rt;
pub mod store;

// One module per layer, with its service, future and body.
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::layers::structured_output;
pub use self::layers::{
    any_error, circuit_breaker, connect_timeout, deadline, dedup, fallback, first_byte_timeout, grpc_status,
    idle_body_timeout, inspect_request, observe, pace, queue, rejections_as_errors, retry_after_backoff, sse_heartbeat,
    supersede, timeout_profile,
};
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::{last_good, resume, stream_guard};

/// The types that the services, futures and bodies of several layers are aliases of. Layers make them.
pub mod generic {
    pub use crate::admission::{Guarded, GuardedBody, GuardedFuture};
    pub use crate::body::either::EitherBody;
    pub use crate::body::monitored::MonitoredBody;
    pub use crate::body::observed::Observed;
    pub use crate::body::prefixed::PrefixedBody;
    pub use crate::body::request::HandledFuture;
    pub use crate::rt::layered::Layered;
}

pub use self::body::ending::Ending;
pub use self::body::request::CallBody;
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub use self::builder::ServiceBuilderExt;
pub use self::call::{
    Attempt, Attempts, Authenticated, CallInfo, InvalidOutput, Memory, Model, NoFallback, NoRetry, NoStore, Notice,
    OutputFault, PinTo, Reservation, RetryReport, ServedBy, Stale, StaleKind, Tenant,
};
pub use self::event::{Event, Observer, StreamFault};
pub use self::layers::any_error::AnyErrorLayer;
pub use self::layers::circuit_breaker::{
    CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitPeers, HealthProbeLayer, PeerCircuit,
    ProbeHold, SlowCallBy,
};
pub use self::layers::connect_timeout::ConnectTimeoutLayer;
pub use self::layers::deadline::DeadlineLayer;
pub use self::layers::dedup::{DedupLayer, DedupRole, InFlightPolicy, Resumable};
pub use self::layers::fallback::FallbackLayer;
pub use self::layers::first_byte_timeout::{FirstByteEvent, FirstByteTimeoutLayer};
pub use self::layers::grpc_status::GrpcStatusLayer;
pub use self::layers::idle_body_timeout::{IdleActivity, IdleBodyTimeoutLayer};
pub use self::layers::inspect_request::InspectRequestLayer;
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::last_good::{Embedder, Embedding, LastGoodLayer, OpenAiEmbeddings, Similar, UnansweredRequest};
pub use self::layers::observe::ObserveLayer;
pub use self::layers::pace::{
    PaceLayer, PacePeers, PaceStats, PeerLimit, PeerPause, PeerReserving, PeerTurn, RateCost, TokenEstimate,
};
pub use self::layers::queue::{QueueLayer, QueueStats};
pub use self::layers::rejections_as_errors::RejectionsAsErrorsLayer;
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::resume::ResumeLayer;
pub use self::layers::retry_after_backoff::RetryAfterBackoffLayer;
pub use self::layers::sse_heartbeat::{CustomFrame, HeadersSentEarly, HeartbeatFrame, SseHeartbeatLayer};
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::stream_guard::{MissingEnd, StreamGuardLayer};
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::layers::structured_output::{OutputUsage, StructuredOutputLayer};
pub use self::layers::supersede::{PeerMessage, SupersedeHandle, SupersedeLayer, SupersedePeers, SupersedeStats};
pub use self::layers::timeout_profile::TimeoutProfileLayer;
pub use self::policy::backoff::Jitter;
pub use self::policy::breaker::order::{CircuitOrder, UnknownOrder};
pub use self::policy::breaker::peers::{PeerDecision, PeerReport};
pub use self::policy::breaker::report::{CircuitChange, CircuitReason, CircuitSnapshot, CircuitState, CircuitStats};
pub use self::policy::pace::Rate;
pub use self::policy::resume::{NotResumed, ResumedBy};
pub use self::policy::retry::NotRetried;
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::policy::structured::{InvalidSchema, OutputSchema};
pub use self::policy::supersede::SupersedeMode;
pub use self::policy::timeout_profile::TimeoutProfile;
pub use self::policy::verdict;
pub use self::policy::window::CircuitWindow;
pub use self::proto::deadline::DeadlineHeader;
pub use self::proto::event_stream::ExpectsEventStream;
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::proto::resume::ResumeBy;
pub use self::rejection::{Rejection, RejectionFormat, RejectionKind};
pub use self::rt::deadline::{Deadline, DeadlineScope};
pub use self::rt::retry_budget::RetryBudget;
pub use self::rt::write_timeout::WriteTimeout;

// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
