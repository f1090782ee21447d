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

/// Remembers calls in this process.
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
/// - *A tenant has taken its [share](Self::tenant_shares)*: its oldest evictable answers are forgotten, then its claims
///   are told that the store is full. Other tenants notice nothing. Tenants that have not had a 2xx yet share one share.
/// - *The store is full*: what has expired is forgotten, then the tenant's oldest evictable answers, then the oldest of
///   all; then claims are told that it is full. What was [guaranteed](super::Retention::is_guaranteed) is kept for its
///   whole window.
/// - *No claim comes*: nothing is done. What has expired is forgotten by later claims, or by
///   [`forget_expired`](Self::forget_expired); until then it takes its room, but is not replayed. An answer that is
///   still being read takes its room until it is read.
///
/// # Cost
///
/// One lock for a claim, of the sixteenth of all keys that it belongs to, two more for one that leads, three for an
/// answer that is kept; one atomic counter for every 4 KiB that are recorded. The cost does not grow with the number of
/// calls or tenants. An entry takes 1 KiB beside what is recorded, a tenant that has had a 2xx some 200 bytes.
#[derive(Clone)]
pub struct MemoryStore {
    stored: Arc<Stored>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Holds at most `max_bytes` and `max_entries`: the calls in flight, and the answers that are kept.
    #[must_use]
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        let max = Amount { bytes: max_bytes, entries: max_entries };
        Self { stored: Arc::new(Stored::new(max)) }
    }

    /// One tenant may take one of `shares` equal shares of the store. Default: 8. 1: one tenant may take all of it, for
    /// a service whose callers all come with one credential.
    ///
    /// It applies to all clones of this store.
    #[must_use]
    pub fn tenant_shares(self, shares: u32) -> Self {
        self.stored.quota.set_shares(shares);
        self
    }

    /// How many calls it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.quota.used().entries
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it holds, each part and each call counted with what it takes to hold it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.stored.quota.used().bytes
    }

    /// Forgets the answers that are kept for a tenant that was [authenticated](Tenant). Returns how many there were.
    ///
    /// A call in flight goes on, and its answer is kept. It takes one look at each entry.
    pub fn forget(&self, tenant: &Tenant) -> usize {
        self.stored.forget(Some(TenantHash::of(tenant)))
    }

    /// Forgets all answers that are kept, likewise.
    pub fn forget_all(&self) -> usize {
        self.stored.forget(None)
    }

    /// Forgets what has expired at `now`. Claims do so too.
    pub fn forget_expired(&self, now: Instant) {
        self.stored.remove_expired(now);
        self.stored.reap_detached(usize::MAX);
    }
}

impl Default for MemoryStore {
    /// 64 MiB, and as many calls as fit into that: 65,536.
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
