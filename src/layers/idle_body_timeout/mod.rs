//! The longest silence of a response body: see [`IdleBodyTimeoutLayer`].

mod body;
mod config;
mod future;
mod layer;
mod service;
mod silence;

pub use self::body::IdleBodyTimeoutBody;
pub use self::config::IdleActivity;
pub use self::future::IdleBodyTimeoutFuture;
pub use self::layer::IdleBodyTimeoutLayer;
pub use self::service::IdleBodyTimeout;
