//! Calls that wait for each other, fairly, for an upstream with a limit: see [`QueueLayer`].

mod awaited_head;
mod config;
mod gate;
mod layer;
mod permit;
mod service;
mod shared;
mod slots;
mod state;
mod uploading;
mod wait;

pub use self::layer::QueueLayer;
pub use self::service::{Queue, QueueBody, QueueFuture};
pub use self::shared::QueueStats;
