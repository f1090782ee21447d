//! The calls of one shard: a sixteenth of all keys.

use std::time::Instant;

use super::account::{Charge, KeptIndex};
use super::shards::lock;
use crate::call::TenantHash;
use crate::proto::fingerprint::{Fingerprint, FingerprintMap};
use crate::store::{Claim, ClaimRequest, ResponseLog};

#[derive(Debug, Default)]
pub(super) struct Entries {
    by_key: FingerprintMap<Entry>,
    kept: KeptIndex,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// The number of the lease that made the entry.
    pub(super) lease: u64,
    payload: Fingerprint,
    owner: Option<TenantHash>,
    log: ResponseLog,
    state: State,
    /// The entry itself and, once stored, its bytes.
    charge: Charge,
}

#[derive(Clone, Copy, Debug)]
enum State {
    InFlight,
    Kept { expires: Instant, guaranteed: bool },
}

/// Removed entries. Dropped outside the lock: dropping a log may take long.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) log: ResponseLog,
    /// The room that it takes, as long as it has a reader.
    pub(super) charge: Charge,
}

// === impl Entries ===

impl Entries {
    /// Answers a claim from an existing entry. An entry whose call failed is removed: the claim leads.
    pub(super) fn find<L>(&mut self, request: &ClaimRequest, removed: &mut Vec<Removed>) -> Option<Claim<L>> {
        let entry = self.by_key.get(&request.key)?;
        if entry.log.has_failed() {
            removed.extend(self.remove(&request.key));
            return None;
        }
        Some(match entry.state {
            _ if entry.payload != request.payload => Claim::Mismatch,
            State::InFlight => Claim::Follow(entry.log.clone()),
            State::Kept { .. } => Claim::Replay(entry.log.clone()),
        })
    }

    pub(super) fn insert(&mut self, request: &ClaimRequest, lease: u64, log: ResponseLog, charge: Charge) {
        let entry =
            Entry { lease, payload: request.payload, owner: request.owner, log, state: State::InFlight, charge };
        self.by_key.insert(request.key, entry);
    }

    /// Returns the entry that this lease made, unless another replaced it.
    pub(super) fn of_lease(&mut self, key: &Fingerprint, lease: u64) -> Option<&mut Entry> {
        self.by_key.get_mut(key).filter(|entry| entry.lease == lease)
    }

    /// Stores the answer of this lease, with the bytes of `charge`.
    pub(super) fn keep(&mut self, key: &Fingerprint, lease: u64, expires: Instant, guaranteed: bool, charge: Charge) {
        let Some(entry) = self.by_key.get_mut(key).filter(|entry| entry.lease == lease) else { return };
        entry.state = State::Kept { expires, guaranteed };
        entry.charge.absorb(charge);
        lock(&entry.charge.account().kept).insert(guaranteed, expires, *key);
        self.kept.insert(guaranteed, expires, *key);
    }

    pub(super) fn remove(&mut self, key: &Fingerprint) -> Option<Removed> {
        let Entry { log, state, charge, .. } = self.by_key.remove(key)?;
        if let State::Kept { expires, guaranteed } = state {
            lock(&charge.account().kept).remove(guaranteed, expires, *key);
            self.kept.remove(guaranteed, expires, *key);
        }
        Some(Removed { log, charge })
    }

    pub(super) fn remove_of_lease(&mut self, key: &Fingerprint, lease: u64) -> Option<Removed> {
        self.of_lease(key, lease)?;
        self.remove(key)
    }

    /// Removes the answers that have expired at `now`.
    pub(super) fn remove_expired(&mut self, now: Instant, removed: &mut Vec<Removed>) {
        while let Some((_, key)) = self.kept.expired(now) {
            removed.extend(self.remove(&key));
        }
    }

    /// Removes an answer, if it is still stored until then.
    pub(super) fn remove_kept(&mut self, expires: Instant, key: &Fingerprint) -> Option<Removed> {
        self.kept.contains(expires, *key).then(|| self.remove(key)).flatten()
    }

    /// Removes the stored answers of this tenant, or of all.
    pub(super) fn forget(&mut self, owner: Option<TenantHash>) -> Vec<Removed> {
        let is_theirs = |entry: &Entry| !entry.is_in_flight() && owner.is_none_or(|owner| entry.owner == Some(owner));
        let keys: Vec<_> = self.by_key.iter().filter(|(_, entry)| is_theirs(entry)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Returns the evictable answer that expires first.
    pub(super) fn oldest_evictable(&self) -> Option<(Instant, Fingerprint)> {
        self.kept.evictable.first().copied()
    }

    /// Returns when the first guaranteed answer expires.
    pub(super) fn next_guaranteed(&self) -> Option<Instant> {
        self.kept.guaranteed.first().map(|(expires, _)| *expires)
    }
}

#[cfg(test)]
impl Entries {
    pub(super) fn has_kept(&self, key: &Fingerprint) -> bool {
        self.by_key.get(key).is_some_and(|entry| !entry.is_in_flight())
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight)
    }

    pub(super) fn charge_mut(&mut self) -> &mut Charge {
        &mut self.charge
    }
}
