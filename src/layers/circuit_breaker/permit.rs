//! Leave to make one call.

use std::sync::Arc;

use super::shard::CounterShard;
use crate::policy::breaker::Grant;

/// Leave to make one call. Its holder, a [`Call`](super::call::Call), says exactly once what came of it.
///
/// It has a shard, not the circuit: a reference that all threads count is a counter that all threads write.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) shard: Arc<CounterShard>,
    pub(super) grant: Grant,
}
