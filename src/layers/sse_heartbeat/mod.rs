//! Comments that keep silent event streams alive: see [`SseHeartbeatLayer`].

mod body;
mod early;
mod failure;
mod frame;
mod future;
mod head;
mod heart;
mod layer;
mod mark;
mod parting;
mod service;

pub use self::body::SseHeartbeatBody;
pub use self::early::{
    BegunEarly, EarlySseHeartbeat, EarlySseHeartbeatBody, EarlySseHeartbeatFuture, EarlySseHeartbeatLayer,
    ExpectsEventStream,
};
pub use self::frame::{CustomFrame, HeartbeatFrame};
pub use self::future::SseHeartbeatFuture;
pub use self::layer::SseHeartbeatLayer;
pub use self::service::SseHeartbeat;
