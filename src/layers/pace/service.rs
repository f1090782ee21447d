use super::gate::PaceGate;
use super::permit::PacePermit;
use crate::admission::{Guarded, GuardedBody, GuardedFuture};

/// Keeps calls within a rate limit. See [`PaceLayer`](crate::PaceLayer).
pub type Pace<S> = Guarded<S, PaceGate>;
/// The future of [`Pace`].
pub type PaceFuture<S, ReqB> = GuardedFuture<S, PaceGate, ReqB>;
/// The response body of [`Pace`], which reads the reported token usage.
pub type PaceBody<B> = GuardedBody<B, PacePermit>;
