//! Calls wait until the upstream's rate limits have room for them: see [`PaceLayer`].

mod config;
mod fleet;
mod gate;
mod key;
mod layer;
mod permit;
mod report;
mod service;
mod shared;
mod tally;
mod tokens;
mod turn_line;
mod turns;
mod usage;
mod wait;

pub use self::layer::PaceLayer;
pub use self::service::{Pace, PaceBody, PaceFuture};
pub use self::shared::PaceStats;
pub use self::tokens::TokenEstimate;
pub use crate::store::pace::{PacePeers, PeerLimit, PeerPause, PeerReserving, PeerTurn, RateCost};
