//! The store of one process.

mod account;
mod entries;
mod lease;
mod shards;
mod stored;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Instant;

use self::account::Amount;
pub use self::lease::MemoryLease;
use self::stored::Stored;
use super::{Claim, ClaimRequest, Store};
use crate::call::{Tenant, TenantHash};
use crate::error::BoxError;
use crate::proto::fingerprint::Fingerprint;

/// A store in this process's memory.
///
/// ```
/// use tower_buttress::DedupLayer;
/// use tower_buttress::store::MemoryStore;
///
/// // 256 MiB, of which one tenant takes at most a quarter.
/// let store = MemoryStore::new(256 * 1024 * 1024, 100_000).tenant_shares(4);
/// let layer = DedupLayer::new().store(store.clone());
/// assert_eq!(store.bytes(), 0);
/// # let _ = layer;
/// ```
///
/// # What happens when
///
/// - *A tenant has taken its [share](Self::tenant_shares)*: the store evicts its oldest evictable answers, then reports
///   [`Claim::Full`](super::Claim::Full) to its claims. Other tenants are not affected. Tenants without a 2xx so far
///   share one share.
/// - *The store is full*: the store removes expired answers, then evicts the tenant's oldest answers, then the oldest of
///   all; then it reports that it is full. [Guaranteed](super::Retention::is_guaranteed) answers are stored for their
///   whole window.
/// - *No claim comes*: nothing is done. Later claims, or [`forget_expired`](Self::forget_expired), remove expired
///   answers; until then those take room, but are not replayed. An answer that is being read takes room until it is read.
///
/// # Cost
///
/// A claim takes one lock, of one of 16 shards by its key; a claim that leads two more; storing an answer three. One
/// atomic counter for every 4 KiB recorded. The cost does not grow with the number of calls or tenants. An entry takes 1
/// KiB besides its recording, a tenant with a 2xx about 200 bytes.
#[derive(Clone)]
pub struct MemoryStore {
    stored: Arc<Stored>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Returns a store of at most `max_bytes` and `max_entries`, calls in flight and stored answers together.
    #[must_use]
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        let max = Amount { bytes: max_bytes, entries: max_entries };
        Self { stored: Arc::new(Stored::new(max)) }
    }

    /// Sets one tenant's share of the store to 1/`shares`. Default: 8. With 1, one tenant may take all of it, for a
    /// service whose callers all use one credential.
    ///
    /// It applies to all clones of this store.
    #[must_use]
    pub fn tenant_shares(self, shares: u32) -> Self {
        self.stored.quota.set_shares(shares);
        self
    }

    /// The number of calls in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.quota.used().entries
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in it, each part and each call with its overhead.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.stored.quota.used().bytes
    }

    /// Removes the stored answers of an [authenticated](Tenant) tenant. Returns their number.
    ///
    /// A call in flight continues, and its answer is stored. It scans all entries.
    pub fn forget(&self, tenant: &Tenant) -> usize {
        self.stored.forget(Some(TenantHash::of(tenant)))
    }

    /// Removes all stored answers, in the same way.
    pub fn forget_all(&self) -> usize {
        self.stored.forget(None)
    }

    /// Removes the answers that have expired at `now`. Claims do so too.
    pub fn forget_expired(&self, now: Instant) {
        self.stored.remove_expired(now);
        self.stored.reap_detached(usize::MAX);
    }
}

impl Default for MemoryStore {
    /// 64 MiB, and 65,536 calls, as many as fit.
    fn default() -> Self {
        Self::new(64 * 1024 * 1024, 65_536)
    }
}

impl Store for MemoryStore {
    type Lease = MemoryLease;
    type Claim = Ready<Result<Claim<MemoryLease>, BoxError>>;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        ready(Ok(MemoryLease::claim(&self.stored, &request)))
    }

    fn accepted(&self, tenant: &Fingerprint) {
        self.stored.tenants.know(*tenant);
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.stored.quota.used();
        f.debug_struct("MemoryStore")
            .field("entries", &used.entries)
            .field("bytes", &used.bytes)
            .finish_non_exhaustive()
    }
}
