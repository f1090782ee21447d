//! Another upstream, when the first cannot serve the call: see [`FallbackLayer`].

mod backup;
mod body;
mod config;
mod future;
mod layer;
mod otherwise;
mod service;
mod session;

pub use self::body::FallbackBody;
pub use self::future::FallbackFuture;
pub use self::layer::FallbackLayer;
pub use self::service::Fallback;
