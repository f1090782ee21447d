use super::gate::BreakerGate;
use super::permit::BreakerPermit;
use crate::admission::{Guarded, GuardedBody, GuardedFuture};

/// Refuses calls to an upstream that is failing. See [`CircuitBreakerLayer`](crate::CircuitBreakerLayer).
pub type CircuitBreaker<S> = Guarded<S, BreakerGate>;
/// The future of [`CircuitBreaker`].
pub type CircuitBreakerFuture<S, ReqB> = GuardedFuture<S, BreakerGate, ReqB>;
/// The response body of [`CircuitBreaker`]: the call is counted by what becomes of it.
pub type CircuitBreakerBody<B> = GuardedBody<B, BreakerPermit>;
