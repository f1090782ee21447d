//! The longest silence of a response body: see [`IdleBodyTimeoutLayer`].

mod body;
mod future;
mod layer;
mod service;

pub use self::body::IdleBodyTimeoutBody;
pub use self::future::IdleBodyTimeoutFuture;
pub use self::layer::{IdleActivity, IdleBodyTimeoutLayer};
pub use self::service::IdleBodyTimeout;
