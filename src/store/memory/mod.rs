//! The store of one process.

mod account;
mod entries;
mod lease;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::account::{Account, Amount, Charge, Quota, Short, Tenants};
use self::entries::{Entries, Removed};
pub use self::lease::MemoryLease;
use super::{Claim, ClaimRequest, Store};
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: [Mutex<Entries>; SHARDS],
    quota: Arc<Quota>,
    tenants: Tenants,
    /// What was forgotten while it was read.
    detached: Mutex<VecDeque<Removed>>,
    /// How many leases there have been: the next one's number.
    leases: AtomicU64,
}

/// Keys are spread over so many locks.
const SHARDS: usize = 16;

/// An entry costs this much beside what is recorded: its places in the maps, its log, and the key.
const OVERHEAD: usize = 1024;

/// How many of the answers that were forgotten while they were read a claim looks at, to see whether they were read.
const REAP_PER_CLAIM: usize = 2;

/// The same, where there is no room.
const REAP_FOR_ROOM: usize = 64;

// === impl MemoryStore ===

impl MemoryStore {
    /// Holds at most `max_bytes` and `max_entries`: the calls in flight, and the answers that are kept.
    #[must_use]
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        let max = Amount { bytes: max_bytes, entries: max_entries };
        let inner = Inner {
            shards: Default::default(),
            quota: Arc::new(Quota::new(max, 8)),
            tenants: Tenants::default(),
            detached: Mutex::default(),
            leases: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// One tenant may take one of `shares` equal shares of the store. Default: 8. 1: one tenant may take all of it, for
    /// a service whose callers all come with one credential.
    ///
    /// It applies to all clones of this store.
    #[must_use]
    pub fn tenant_shares(self, shares: u32) -> Self {
        self.inner.quota.set_shares(shares);
        self
    }

    /// How many calls it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.quota.used().entries
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it holds, each part and each call counted with what it takes to hold it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.quota.used().bytes
    }

    /// Forgets what has expired at `now`. Claims do so too.
    pub fn forget_expired(&self, now: Instant) {
        self.inner.remove_expired(now);
        self.inner.reap_detached(usize::MAX);
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
        self.inner.reap_detached(REAP_PER_CLAIM);
        ready(Ok(self.inner.claim(&request)))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.inner.quota.used();
        f.debug_struct("MemoryStore")
            .field("entries", &used.entries)
            .field("bytes", &used.bytes)
            .finish_non_exhaustive()
    }
}

/// Nothing panics under these locks. (They are the standard library's, also under a model checker.)
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fingerprints are hashes: any of their bits are as good as others. The map inside a shard uses the first ones.
const fn shard_of(print: &Fingerprint) -> usize {
    print.as_bytes()[31] as usize % SHARDS
}

// === impl Inner ===

// A shard's lock may be held when an account's is taken, and never the other way round.
impl Inner {
    fn shard(&self, key: &Fingerprint) -> &Mutex<Entries> {
        &self.shards[shard_of(key)]
    }

    fn claim(self: &Arc<Self>, request: &ClaimRequest) -> Claim<MemoryLease> {
        loop {
            let mut removed = Vec::new();
            let mut entries = lock(self.shard(&request.key));
            entries.remove_expired(request.now, &mut removed);
            if let Some(claim) = entries.find(request, &mut removed) {
                drop(entries);
                self.detach(removed);
                return claim;
            }
            let account = self.tenants.account(&request.tenant);
            let short = match Charge::take(&self.quota, &account, Amount { bytes: OVERHEAD, entries: 1 }) {
                Ok(mut charge) => {
                    let bytes = charge.split_bytes();
                    let (recorder, log) = request.open_log();
                    let id = self.leases.fetch_add(1, Relaxed);
                    entries.insert(request, id, log, charge);
                    drop(entries);
                    self.detach(removed);
                    let lease = MemoryLease::new(self.clone(), request.key, request.tenant, id, bytes);
                    return Claim::Lead { lease, recorder };
                }
                Err(short) => short,
            };
            drop(entries);
            self.detach(removed);
            if !self.make_room(short, &account, request.now) {
                return Claim::Full { retry_after: self.retry_after(short, &account, request.now) };
            }
        }
    }

    /// Forgets something, where there is something that may be forgotten.
    fn make_room(&self, short: Short, account: &Account, now: Instant) -> bool {
        let oldest = match short {
            Short::Share => lock(&account.kept).removable(now),
            Short::Store if self.remove_expired(now) > 0 => return true,
            Short::Store => lock(&account.kept).removable(now).or_else(|| self.oldest_evictable()),
        };
        match oldest {
            // If it is gone, somebody else was faster: there may be room now.
            Some((expires, key)) => {
                let removed = lock(self.shard(&key)).remove_kept(expires, &key);
                self.detach(removed);
                true
            }
            None => self.reap_detached(REAP_FOR_ROOM) > 0,
        }
    }

    /// The evictable answer that expires first, of all tenants.
    fn oldest_evictable(&self) -> Option<(Instant, Fingerprint)> {
        self.shards.iter().filter_map(|shard| lock(shard).oldest_evictable()).min()
    }

    /// When the first answer expires that could not be forgotten.
    fn retry_after(&self, short: Short, account: &Account, now: Instant) -> Option<Duration> {
        let expires = match short {
            Short::Share => lock(&account.kept).guaranteed.first().map(|(expires, _)| *expires),
            Short::Store => self.shards.iter().filter_map(|shard| lock(shard).next_guaranteed()).min(),
        };
        expires.map(|expires| expires.saturating_duration_since(now))
    }

    /// Removes what has expired everywhere. Returns how many there were.
    fn remove_expired(&self, now: Instant) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let mut removed = Vec::new();
            lock(shard).remove_expired(now, &mut removed);
            count += removed.len();
            self.detach(removed);
        }
        count
    }

    /// Drops what nobody reads, and sets the rest aside until it is read.
    fn detach(&self, removed: impl IntoIterator<Item = Removed>) {
        for Removed { log, mut charge } in removed {
            // A call in flight has no bytes here: its lease has them.
            if charge.bytes() > 0 && log.listeners() > 0 {
                lock(&self.detached).push_back(Removed { log, charge: charge.split_bytes() });
            }
        }
    }

    /// Looks at the next `count` answers that were forgotten while they were read, and drops those that have been read.
    /// Returns how many.
    fn reap_detached(&self, count: usize) -> usize {
        let mut detached = lock(&self.detached);
        let mut read = Vec::new();
        for _ in 0..count.min(detached.len()) {
            match detached.pop_front() {
                Some(removed) if removed.log.listeners() > 0 => detached.push_back(removed),
                removed => read.extend(removed),
            }
        }
        drop(detached);
        read.len()
    }
}
