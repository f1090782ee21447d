//! All entries, and how room is made for more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::account::{Account, Amount, Short, StoreQuota, Tenants};
use super::entries::{Entries, Removed};
use super::shards::{SHARDS, lock, shard_of};
use crate::call::TenantHash;
use crate::proto::fingerprint::Fingerprint;

#[derive(Debug)]
pub(super) struct Stored {
    shards: [Mutex<Entries>; SHARDS],
    pub(super) quota: Arc<StoreQuota>,
    pub(super) tenants: Tenants,
    /// Answers that were removed while they were read.
    detached: Mutex<VecDeque<Removed>>,
    /// Their number: mostly 0, which is visible without the lock.
    detached_count: AtomicUsize,
    /// The number of leases so far: the next lease's number.
    pub(super) leases: AtomicU64,
}

/// The default number of equal shares, of which a tenant may take one.
const SHARES: u32 = 8;

/// How many of the answers removed while they were read are checked when there is no room.
const REAP_FOR_ROOM: usize = 64;

// === impl Stored ===

// An account's lock may be taken under a shard's lock, never the reverse.
impl Stored {
    pub(super) fn new(max: Amount) -> Self {
        Self {
            shards: Default::default(),
            quota: Arc::new(StoreQuota::new(max, SHARES)),
            tenants: Tenants::default(),
            detached: Mutex::default(),
            detached_count: AtomicUsize::new(0),
            leases: AtomicU64::new(0),
        }
    }

    pub(super) fn shard(&self, key: &Fingerprint) -> &Mutex<Entries> {
        &self.shards[shard_of(key)]
    }

    /// Evicts one answer, if there is an evictable one.
    pub(super) fn make_room(&self, short: Short, account: &Account, now: Instant) -> bool {
        let oldest = match short {
            Short::Share => lock(&account.kept).removable(now),
            Short::Store if self.remove_expired(now) > 0 => return true,
            Short::Store => lock(&account.kept).removable(now).or_else(|| self.oldest_evictable()),
        };
        match oldest {
            // If it is gone, another claim was faster: there may be room now.
            Some((expires, key)) => {
                let removed = lock(self.shard(&key)).remove_kept(expires, &key);
                self.detach(removed);
                true
            }
            None => self.reap_detached(REAP_FOR_ROOM) > 0,
        }
    }

    /// Returns the evictable answer of any tenant that expires first.
    fn oldest_evictable(&self) -> Option<(Instant, Fingerprint)> {
        self.shards.iter().filter_map(|shard| lock(shard).oldest_evictable()).min()
    }

    /// Returns when the first guaranteed answer expires.
    pub(super) fn retry_after(&self, short: Short, account: &Account, now: Instant) -> Option<Duration> {
        let expires = match short {
            Short::Share => lock(&account.kept).guaranteed.first().map(|(expires, _)| *expires),
            Short::Store => self.shards.iter().filter_map(|shard| lock(shard).next_guaranteed()).min(),
        };
        expires.map(|expires| expires.saturating_duration_since(now))
    }

    /// Removes all expired answers. Returns their number.
    pub(super) fn remove_expired(&self, now: Instant) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let mut removed = Vec::new();
            lock(shard).remove_expired(now, &mut removed);
            count += removed.len();
            self.detach(removed);
        }
        count
    }

    /// Removes the stored answers of this tenant, or of all. Returns their number.
    pub(super) fn forget(&self, owner: Option<TenantHash>) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let removed = lock(shard).forget(owner);
            count += removed.len();
            self.detach(removed);
        }
        count
    }

    /// Drops entries without a reader, and sets the others aside until they are read.
    pub(super) fn detach(&self, removed: impl IntoIterator<Item = Removed>) {
        for Removed { log, mut charge } in removed {
            // A call in flight has no bytes here: they belong to its lease.
            if charge.bytes() > 0 && log.listeners() > 0 {
                self.detached_count.fetch_add(1, Relaxed);
                lock(&self.detached).push_back(Removed { log, charge: charge.split_bytes() });
            }
        }
    }

    /// Checks the next `count` answers that were removed while they were read, and drops those that have been read.
    /// Returns how many it dropped.
    pub(super) fn reap_detached(&self, count: usize) -> usize {
        if self.detached_count.load(Relaxed) == 0 {
            return 0;
        }
        let mut detached = lock(&self.detached);
        let mut read = Vec::new();
        for _ in 0..count.min(detached.len()) {
            match detached.pop_front() {
                Some(removed) if removed.log.listeners() > 0 => detached.push_back(removed),
                removed => read.extend(removed),
            }
        }
        drop(detached);
        self.detached_count.fetch_sub(read.len(), Relaxed);
        read.len()
    }
}
