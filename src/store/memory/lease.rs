use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::account::{Amount, Charge};
use super::entries::Removed;
use super::shards::lock;
use super::stored::Stored;
use crate::proto::fingerprint::Fingerprint;
use crate::rt::clock;
use crate::store::{Claim, ClaimRequest, Lease, Retention};

/// The lease of a [`MemoryStore`](super::MemoryStore).
pub struct MemoryLease {
    fits: bool,
    /// Its entry was neither stored nor removed yet.
    is_in_flight: bool,
    used: usize,
    /// The bytes taken for the recording: the bytes used, rounded up.
    charge: Charge,
    store: Arc<Stored>,
    id: u64,
    key: Fingerprint,
    tenant: Fingerprint,
}

/// The cost of an entry besides its recording: its places in the maps, its log, and the key.
const OVERHEAD: usize = 1024;

/// The number of answers, evicted while they were read, that each claim checks for readers.
const REAP_PER_CLAIM: usize = 2;

/// Bytes are taken in steps, so that not every event of a stream touches the counters that all calls share.
const STEP: usize = 4096;

/// A longer window means forever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// === impl MemoryLease ===

impl MemoryLease {
    pub(super) fn claim(store: &Arc<Stored>, request: &ClaimRequest) -> Claim<Self> {
        store.reap_detached(REAP_PER_CLAIM);
        loop {
            let mut removed = Vec::new();
            let mut entries = lock(store.shard(&request.key));
            entries.remove_expired(request.now, &mut removed);
            if let Some(claim) = entries.find(request, &mut removed) {
                drop(entries);
                store.detach(removed);
                return claim;
            }
            let account = store.tenants.account(&request.tenant);
            let short = match Charge::take(&store.quota, &account, Amount { bytes: OVERHEAD, entries: 1 }) {
                Ok(mut charge) => {
                    let bytes = charge.split_bytes();
                    let (recorder, log) = request.open_log();
                    let id = store.leases.fetch_add(1, Relaxed);
                    entries.insert(request, id, log, charge);
                    drop(entries);
                    store.detach(removed);
                    let lease = Self {
                        store: store.clone(),
                        key: request.key,
                        tenant: request.tenant,
                        id,
                        charge: bytes,
                        used: OVERHEAD,
                        fits: true,
                        is_in_flight: true,
                    };
                    return Claim::Lead { lease, recorder };
                }
                Err(short) => short,
            };
            drop(entries);
            store.detach(removed);
            if !store.make_room(short, &account, request.now) {
                return Claim::Full { retry_after: store.retry_after(short, &account, request.now) };
            }
        }
    }

    /// Takes `bytes` in total, and evicts if there is no room.
    fn take(&mut self, bytes: usize) -> bool {
        while let Err(short) = self.charge.resize(bytes) {
            if !self.store.make_room(short, self.charge.account(), clock::now()) {
                return false;
            }
        }
        true
    }

    fn remove(&mut self) -> Option<Removed> {
        if !std::mem::take(&mut self.is_in_flight) {
            return None;
        }
        lock(self.store.shard(&self.key)).remove_of_lease(&self.key, self.id)
    }
}

impl Lease for MemoryLease {
    fn resize(&mut self, bytes: usize) -> bool {
        let bytes = bytes.saturating_add(OVERHEAD);
        self.used = bytes;
        // Within the taken bytes, and not far below them.
        let taken = self.charge.bytes();
        if self.fits && bytes <= taken && taken - bytes < 2 * STEP {
            return true;
        }
        let step = bytes.checked_next_multiple_of(STEP).unwrap_or(bytes);
        self.fits = self.take(step) || self.take(bytes);
        if !self.fits {
            self.charge.force(bytes);
        }
        self.fits
    }

    fn accepted(&mut self) {
        if !self.store.tenants.is_strangers(self.charge.account()) {
            return;
        }
        let account = self.store.tenants.know(self.tenant);
        self.charge.move_to(&account);
        let mut entries = lock(self.store.shard(&self.key));
        if let Some(entry) = entries.of_lease(&self.key, self.id) {
            entry.charge_mut().move_to(&account);
        }
    }

    fn release(&mut self) {
        let removed = self.remove();
        drop(removed);
    }

    fn keep(mut self, retention: Retention) {
        let Some(expires) = retention.now().checked_add(retention.window().min(LONGEST)) else { return };
        // The bytes belong to the entry from now on, reduced to the bytes used.
        if self.charge.resize(self.used).is_err() {
            self.charge.force(self.used);
        }
        let bytes = self.charge.split_bytes();
        self.is_in_flight = false;
        let mut entries = lock(self.store.shard(&self.key));
        entries.keep(&self.key, self.id, expires, retention.is_guaranteed(), bytes);
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let removed = self.remove();
        drop(removed);
    }
}

impl fmt::Debug for MemoryLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLease")
            .field("key", &self.key)
            .field("bytes", &self.charge.bytes())
            .finish_non_exhaustive()
    }
}
