//! DECIDE: `(input, now) -> action`. No async, no clock, no randomness of its own.

pub(crate) mod backoff;
pub(crate) mod breaker;
pub(crate) mod broadcast;
pub(crate) mod budget;
pub(crate) mod fallback;
#[cfg(feature = "llm")]
pub(crate) mod fault;
pub(crate) mod grace;
pub(crate) mod heartbeat_schedule;
pub(crate) mod idle;
pub(crate) mod known_models;
#[cfg(feature = "llm")]
pub(crate) mod last_good;
pub(crate) mod micros;
pub(crate) mod pace;
pub(crate) mod queue;
pub(crate) mod request_scope;
pub(crate) mod resume;
pub(crate) mod retry;
pub(crate) mod storable;
pub(crate) mod supersede;
pub(crate) mod timeout_profile;
pub(crate) mod unattended;
pub mod verdict;
pub(crate) mod window;
