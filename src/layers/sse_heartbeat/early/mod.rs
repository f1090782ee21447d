//! Heartbeats before there is an answer: see [`EarlySseHeartbeatLayer`].

mod asked;
mod body;
mod future;
mod layer;
mod service;

pub use self::asked::{BegunEarly, ExpectsEventStream};
pub use self::body::EarlySseHeartbeatBody;
pub use self::future::EarlySseHeartbeatFuture;
pub use self::layer::EarlySseHeartbeatLayer;
pub use self::service::EarlySseHeartbeat;
