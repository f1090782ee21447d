//! Calls that wait until the upstream's rate limits have room for them: see [`PaceLayer`].

mod config;
mod gate;
mod key;
mod layer;
mod peers;
mod permit;
mod shared;
mod tokens;
mod usage;
mod wait;

use self::gate::PaceGate;
use self::permit::PacePermit;
use crate::admission::{Guarded, GuardedBody, GuardedFuture};

pub use self::layer::PaceLayer;
pub use self::peers::{PacePeers, PeerLimit};
pub use self::shared::PaceStats;
pub use self::tokens::TokenEstimate;

/// Sends calls no faster than a limit allows. See [`PaceLayer`].
pub type Pace<S> = Guarded<S, PaceGate>;
/// The future of [`Pace`].
pub type PaceFuture<S, ReqB> = GuardedFuture<S, PaceGate, ReqB>;
/// The response body of [`Pace`], from which the tokens that were used are read.
pub type PaceBody<B> = GuardedBody<B, PacePermit>;
