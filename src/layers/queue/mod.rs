//! Calls that wait for each other, fairly, for an upstream with a limit: see [`QueueLayer`].

mod config;
mod gate;
mod layer;
mod permit;
mod shared;
mod wait;

use self::gate::QueueGate;
use self::permit::QueuePermit;
use crate::admission::{Guarded, GuardedBody, GuardedFuture};

pub use self::layer::QueueLayer;
pub use self::shared::QueueStats;

/// Bounds the calls under way, and has the others wait. See [`QueueLayer`].
pub type Queue<S> = Guarded<S, QueueGate>;
/// The future of [`Queue`].
pub type QueueFuture<S, ReqB> = GuardedFuture<S, QueueGate, ReqB>;
/// The response body of [`Queue`]: the call holds its place until it ends.
pub type QueueBody<B> = GuardedBody<B, QueuePermit>;
