//! The wait for the first data of a response: see [`FirstByteTimeoutLayer`].

mod body;
mod config;
mod future;
mod layer;
mod limit;
mod service;
mod withheld;

pub use self::body::FirstByteTimeoutBody;
pub use self::config::FirstByteEvent;
pub use self::future::FirstByteTimeoutFuture;
pub use self::layer::FirstByteTimeoutLayer;
pub use self::service::FirstByteTimeout;
