//! Spreads keys and tenants over several locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::proto::fingerprint::Fingerprint;

/// The number of locks.
pub(super) const SHARDS: usize = 16;

/// Fingerprints are hashes, so any bits serve. The map inside a shard uses the first ones.
pub(super) const fn shard_of(print: &Fingerprint) -> usize {
    print.as_bytes()[31] as usize % SHARDS
}

/// No code panics under these locks. (They are the standard library's, also under a model checker.)
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
