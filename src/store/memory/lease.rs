use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::account::Charge;
use super::entries::Removed;
use super::{Inner, OVERHEAD, lock};
use crate::proto::fingerprint::Fingerprint;
use crate::rt::clock;
use crate::store::{Lease, Retention};

/// The lease of a [`MemoryStore`](super::MemoryStore).
pub struct MemoryLease {
    store: Arc<Inner>,
    key: Fingerprint,
    tenant: Fingerprint,
    id: u64,
    /// The bytes that were taken for the recording: those that are used, or a little more.
    charge: Charge,
    used: usize,
    fits: bool,
}

/// Bytes are taken in steps, so that not every event of a stream touches the counters that all calls share.
const STEP: usize = 4096;

/// A window that is longer means for ever, which no clock can count to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// === impl MemoryLease ===

impl MemoryLease {
    pub(super) fn new(store: Arc<Inner>, key: Fingerprint, tenant: Fingerprint, id: u64, charge: Charge) -> Self {
        Self { store, key, tenant, id, charge, used: OVERHEAD, fits: true }
    }

    /// Takes `bytes` in all, and makes room for them where there is none.
    fn take(&mut self, bytes: usize) -> bool {
        while let Err(short) = self.charge.resize(bytes) {
            if !self.store.make_room(short, self.charge.account(), clock::now()) {
                return false;
            }
        }
        true
    }

    fn remove(&self) -> Option<Removed> {
        lock(self.store.shard(&self.key)).remove_of_lease(&self.key, self.id)
    }
}

impl Lease for MemoryLease {
    fn resize(&mut self, bytes: usize) -> bool {
        let bytes = bytes.saturating_add(OVERHEAD);
        self.used = bytes;
        // Within what was taken, and not by far.
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
        // The bytes are the entry's from now on, and no more than are used.
        if self.charge.resize(self.used).is_err() {
            self.charge.force(self.used);
        }
        let bytes = self.charge.split_bytes();
        let mut entries = lock(self.store.shard(&self.key));
        entries.keep(&self.key, self.id, expires, retention.is_guaranteed(), bytes);
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let mut entries = lock(self.store.shard(&self.key));
        let in_flight = entries.of_lease(&self.key, self.id).is_some_and(|entry| entry.is_in_flight());
        let removed = in_flight.then(|| entries.remove(&self.key));
        drop(entries);
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
