//! Checks that an answer of an LLM API is complete and no error: see [`StreamGuardLayer`].

mod body;
mod config;
mod expected;
mod future;
mod layer;
mod prelude;
mod promise;
mod refusal;
mod service;
mod state;
mod watch;

pub use self::body::StreamGuardBody;
pub use self::config::MissingEnd;
pub use self::future::StreamGuardFuture;
pub use self::layer::StreamGuardLayer;
pub use self::service::StreamGuard;
