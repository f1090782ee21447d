//! Everything that is stored, and how room is made for more.

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
    /// What was forgotten while it was read.
    detached: Mutex<VecDeque<Removed>>,
    /// How many these are: mostly none, and no lock need be taken to see that.
    detached_count: AtomicUsize,
    /// How many leases there have been: the next one's number.
    pub(super) leases: AtomicU64,
}

/// One tenant may take one of this number of equal shares, where the operator says nothing else.
const SHARES: u32 = 8;

/// How many of the answers that were forgotten while they were read are looked at where there is no room.
const REAP_FOR_ROOM: usize = 64;

// === impl Stored ===

// A shard's lock may be held when an account's is taken, and never the other way round.
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

    /// Forgets something, where there is something that may be forgotten.
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

    /// The evictable answer that expires first, of all tenants.
    fn oldest_evictable(&self) -> Option<(Instant, Fingerprint)> {
        self.shards.iter().filter_map(|shard| lock(shard).oldest_evictable()).min()
    }

    /// When the first answer expires that could not be forgotten.
    pub(super) fn retry_after(&self, short: Short, account: &Account, now: Instant) -> Option<Duration> {
        let expires = match short {
            Short::Share => lock(&account.kept).guaranteed.first().map(|(expires, _)| *expires),
            Short::Store => self.shards.iter().filter_map(|shard| lock(shard).next_guaranteed()).min(),
        };
        expires.map(|expires| expires.saturating_duration_since(now))
    }

    /// Removes what has expired everywhere. Returns how many there were.
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

    /// Removes the answers that are kept for this tenant, or for all. Returns how many there were.
    pub(super) fn forget(&self, owner: Option<TenantHash>) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let removed = lock(shard).forget(owner);
            count += removed.len();
            self.detach(removed);
        }
        count
    }

    /// Drops what has no reader, and sets the rest aside until it is read.
    pub(super) fn detach(&self, removed: impl IntoIterator<Item = Removed>) {
        for Removed { log, mut charge } in removed {
            // A call in flight has no bytes here: its lease has them.
            if charge.bytes() > 0 && log.listeners() > 0 {
                self.detached_count.fetch_add(1, Relaxed);
                lock(&self.detached).push_back(Removed { log, charge: charge.split_bytes() });
            }
        }
    }

    /// Looks at the next `count` answers that were forgotten while they were read, and drops those that have been read.
    /// Returns how many.
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
