use super::gate::QueueGate;
use super::permit::QueuePermit;
use crate::admission::{Guarded, GuardedBody, GuardedFuture};

/// Limits the calls in flight, and makes the others wait. See [`QueueLayer`](crate::QueueLayer).
pub type Queue<S> = Guarded<S, QueueGate>;
/// The future of [`Queue`].
pub type QueueFuture<S, ReqB> = GuardedFuture<S, QueueGate, ReqB>;
/// The response body of [`Queue`]: the call holds its place until it ends.
pub type QueueBody<B> = GuardedBody<B, QueuePermit>;
