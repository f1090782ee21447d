//! The wait for the first data of a response: see [`FirstByteTimeoutLayer`].

mod body;
mod future;
mod layer;
mod service;

pub use self::body::FirstByteTimeoutBody;
pub use self::future::FirstByteTimeoutFuture;
pub use self::layer::{FirstByteEvent, FirstByteTimeoutLayer};
pub use self::service::FirstByteTimeout;
