//! Comments that keep silent event streams alive: see [`SseHeartbeatLayer`].

mod body;
mod bom;
mod delayed_end;
mod early;
mod failure;
mod frame;
mod future;
mod head;
mod layer;
mod service;
mod state;

pub use self::body::SseHeartbeatBody;
pub use self::early::{
    EarlySseHeartbeat, EarlySseHeartbeatBody, EarlySseHeartbeatFuture, EarlySseHeartbeatLayer, HeadersSentEarly,
};
pub use self::frame::{CustomFrame, HeartbeatFrame};
pub use self::future::SseHeartbeatFuture;
pub use self::layer::SseHeartbeatLayer;
pub use self::service::SseHeartbeat;
