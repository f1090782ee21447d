//! The status of a gRPC stream that we end ourselves: see [`GrpcStatusLayer`].

mod body;
mod future;
mod layer;
mod service;

pub use self::body::GrpcStatusBody;
pub use self::future::GrpcStatusFuture;
pub use self::layer::GrpcStatusLayer;
pub use self::service::GrpcStatus;
