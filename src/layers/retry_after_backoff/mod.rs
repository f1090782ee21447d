//! Retries when the upstream allows them: see [`RetryAfterBackoffLayer`].

mod config;
mod future;
mod layer;
mod service;
mod session;

pub use self::future::RetryAfterBackoffFuture;
pub use self::layer::RetryAfterBackoffLayer;
pub use self::service::RetryAfterBackoff;
