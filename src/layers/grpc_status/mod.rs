//! A status for gRPC streams that reach a time limit: see [`GrpcStatusLayer`].

mod body;
mod future;
mod layer;
mod service;

pub use self::body::GrpcStatusBody;
pub use self::future::GrpcStatusFuture;
pub use self::layer::GrpcStatusLayer;
pub use self::service::GrpcStatus;
