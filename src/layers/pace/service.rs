use super::gate::PaceGate;
use super::permit::PacePermit;
use crate::admission::{Guarded, GuardedBody, GuardedFuture};

/// Sends calls no faster than a limit allows. See [`PaceLayer`](crate::PaceLayer).
pub type Pace<S> = Guarded<S, PaceGate>;
/// The future of [`Pace`].
pub type PaceFuture<S, ReqB> = GuardedFuture<S, PaceGate, ReqB>;
/// The response body of [`Pace`], from which the tokens that were used are read.
pub type PaceBody<B> = GuardedBody<B, PacePermit>;
