//! Heartbeats before there is an answer: see [`EarlySseHeartbeatLayer`].

mod body;
mod future;
mod layer;
mod markers;
mod service;

pub use self::body::EarlySseHeartbeatBody;
pub use self::future::EarlySseHeartbeatFuture;
pub use self::layer::EarlySseHeartbeatLayer;
pub use self::markers::HeadersSentEarly;
pub use self::service::EarlySseHeartbeat;
