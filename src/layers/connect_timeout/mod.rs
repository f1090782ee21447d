//! The time limit of a connection: see [`ConnectTimeoutLayer`].

mod config;
mod future;
mod layer;
mod service;

pub use self::future::ConnectTimeoutFuture;
pub use self::layer::ConnectTimeoutLayer;
pub use self::service::ConnectTimeout;
