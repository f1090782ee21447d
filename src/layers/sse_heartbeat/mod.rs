//! Comments that keep silent event streams alive: see [`SseHeartbeatLayer`].

mod body;
mod bom;
mod call_config;
mod config;
mod delayed_end;
mod failure;
mod future;
mod head;
mod layer;
mod notices;
mod pending;
mod position;
mod service;
mod state;

pub use self::body::SseHeartbeatBody;
pub use self::future::SseHeartbeatFuture;
pub use self::head::HeadersSentEarly;
pub use self::layer::SseHeartbeatLayer;
pub use self::service::SseHeartbeat;
pub use crate::policy::heartbeat_frame::{CustomFrame, HeartbeatFrame};
