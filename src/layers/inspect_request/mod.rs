//! Decisions that take reading the request: see [`InspectRequestLayer`].

mod future;
mod layer;
mod service;

pub use self::future::InspectRequestFuture;
pub use self::layer::InspectRequestLayer;
pub use self::service::InspectRequest;
