//! The room that each tenant takes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::shards::{SHARDS, lock, shard_of};
use crate::proto::fingerprint::{Fingerprint, FingerprintMap};

/// The limits of the store: in total, and per tenant.
#[derive(Debug)]
pub(super) struct StoreQuota {
    max: Amount,
    /// One tenant may take one of this number of equal shares.
    shares: AtomicU32,
    used: AmountInUse,
}

/// Bytes and entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) bytes: usize,
    pub(super) entries: usize,
}

/// The room taken by a tenant, or by all tenants without a 2xx so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    used: AmountInUse,
    pub(super) kept: Mutex<KeptIndex>,
    /// Used since the last sweep.
    recently_used: AtomicBool,
}

#[derive(Debug, Default)]
struct AmountInUse {
    bytes: AtomicUsize,
    entries: AtomicUsize,
}

/// Stored answers by the instant at which they expire.
#[derive(Debug, Default)]
pub(super) struct KeptIndex {
    pub(super) guaranteed: BTreeSet<(Instant, Fingerprint)>,
    pub(super) evictable: BTreeSet<(Instant, Fingerprint)>,
}

/// Room taken from an account and from the store, released on drop.
#[derive(Debug)]
pub(super) struct Charge {
    quota: Arc<StoreQuota>,
    account: Arc<Account>,
    amount: Amount,
}

/// The limit that leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// The tenant's share.
    Share,
    /// The store.
    Store,
}

/// The accounts of the tenants with a 2xx, and the shared account of all others.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    strangers: Arc<Account>,
    known: [Mutex<Known>; SHARDS],
}

#[derive(Debug, Default)]
struct Known {
    accounts: FingerprintMap<Arc<Account>>,
    /// The number of accounts at which idle ones are dropped.
    sweep_at: usize,
}

/// Idle tenants that are remembered per shard (16,384 in total). A tenant that is dropped shares the strangers' account
/// again, until its next 2xx.
const IDLE_TENANTS: usize = 1024;

// === impl StoreQuota ===

impl StoreQuota {
    pub(super) fn new(max: Amount, shares: u32) -> Self {
        Self { max, shares: AtomicU32::new(shares.max(1)), used: AmountInUse::default() }
    }

    pub(super) fn set_shares(&self, shares: u32) {
        self.shares.store(shares.max(1), Relaxed);
    }

    pub(super) fn used(&self) -> Amount {
        self.used.get()
    }

    /// The share of one tenant: at least one entry, if the store takes any.
    fn share(&self) -> Amount {
        let shares = usize::try_from(self.shares.load(Relaxed)).unwrap_or(usize::MAX);
        Amount { bytes: self.max.bytes / shares, entries: (self.max.entries / shares).max(1).min(self.max.entries) }
    }

    fn take(&self, account: &Account, amount: Amount) -> Result<(), Short> {
        if !account.used.try_add(amount, self.share()) {
            return Err(Short::Share);
        }
        if !self.used.try_add(amount, self.max) {
            account.used.sub(amount);
            return Err(Short::Store);
        }
        Ok(())
    }
}

// === impl AmountInUse ===

impl AmountInUse {
    fn get(&self) -> Amount {
        Amount { bytes: self.bytes.load(Relaxed), entries: self.entries.load(Relaxed) }
    }

    fn try_add(&self, amount: Amount, max: Amount) -> bool {
        let add = |counter: &AtomicUsize, add: usize, max: usize| {
            let within = |used: usize| used.checked_add(add).filter(|sum| *sum <= max);
            add == 0 || counter.fetch_update(Relaxed, Relaxed, within).is_ok()
        };
        if !add(&self.bytes, amount.bytes, max.bytes) {
            return false;
        }
        let fits = add(&self.entries, amount.entries, max.entries);
        if !fits {
            self.bytes.fetch_sub(amount.bytes, Relaxed);
        }
        fits
    }

    /// Adds without checking the limit.
    fn add(&self, amount: Amount) {
        self.bytes.fetch_add(amount.bytes, Relaxed);
        self.entries.fetch_add(amount.entries, Relaxed);
    }

    fn sub(&self, amount: Amount) {
        self.bytes.fetch_sub(amount.bytes, Relaxed);
        self.entries.fetch_sub(amount.entries, Relaxed);
    }
}

// === impl Charge ===

impl Charge {
    pub(super) fn take(quota: &Arc<StoreQuota>, account: &Arc<Account>, amount: Amount) -> Result<Self, Short> {
        quota.take(account, amount)?;
        Ok(Self { quota: quota.clone(), account: account.clone(), amount })
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    pub(super) fn bytes(&self) -> usize {
        self.amount.bytes
    }

    /// Grows or shrinks the charge to `bytes`.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), Short> {
        match bytes.checked_sub(self.amount.bytes) {
            Some(more) => self.quota.take(&self.account, Amount { bytes: more, entries: 0 })?,
            None => self.give_back(Amount { bytes: self.amount.bytes - bytes, entries: 0 }),
        }
        self.amount.bytes = bytes;
        Ok(())
    }

    /// Sets the charge to `bytes` even without room: the memory is already in use.
    pub(super) fn force(&mut self, bytes: usize) {
        self.give_back(Amount { bytes: self.amount.bytes, entries: 0 });
        let amount = Amount { bytes, entries: 0 };
        self.account.used.add(amount);
        self.quota.used.add(amount);
        self.amount.bytes = bytes;
    }

    /// Splits off the bytes into a new charge; the entries stay.
    pub(super) fn split_bytes(&mut self) -> Self {
        let amount = Amount { bytes: std::mem::take(&mut self.amount.bytes), entries: 0 };
        Self { quota: self.quota.clone(), account: self.account.clone(), amount }
    }

    /// Merges another charge of the same account.
    pub(super) fn absorb(&mut self, mut other: Self) {
        if !Arc::ptr_eq(&self.account, &other.account) {
            other.move_to(&self.account);
        }
        let amount = std::mem::take(&mut other.amount);
        self.amount.bytes += amount.bytes;
        self.amount.entries += amount.entries;
    }

    /// Moves the charge to another account, even without room there.
    pub(super) fn move_to(&mut self, account: &Arc<Account>) {
        account.used.add(self.amount);
        self.account.used.sub(self.amount);
        self.account = account.clone();
    }

    fn give_back(&self, amount: Amount) {
        self.account.used.sub(amount);
        self.quota.used.sub(amount);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

// === impl KeptIndex ===

impl KeptIndex {
    pub(super) fn insert(&mut self, guaranteed: bool, expires: Instant, key: Fingerprint) {
        self.of(guaranteed).insert((expires, key));
    }

    pub(super) fn remove(&mut self, guaranteed: bool, expires: Instant, key: Fingerprint) {
        self.of(guaranteed).remove(&(expires, key));
    }

    fn of(&mut self, guaranteed: bool) -> &mut BTreeSet<(Instant, Fingerprint)> {
        if guaranteed { &mut self.guaranteed } else { &mut self.evictable }
    }

    pub(super) fn contains(&self, expires: Instant, key: Fingerprint) -> bool {
        self.guaranteed.contains(&(expires, key)) || self.evictable.contains(&(expires, key))
    }

    /// Returns the first answer that has expired at `now`.
    pub(super) fn expired(&self, now: Instant) -> Option<(Instant, Fingerprint)> {
        let first = [&self.guaranteed, &self.evictable].into_iter().filter_map(BTreeSet::first).min();
        first.filter(|(expires, _)| *expires <= now).copied()
    }

    /// Returns an answer that has expired at `now`, or else the oldest evictable one.
    pub(super) fn removable(&self, now: Instant) -> Option<(Instant, Fingerprint)> {
        self.expired(now).or_else(|| self.evictable.first().copied())
    }
}

// === impl Tenants ===

impl Tenants {
    /// Returns the account of a tenant: its own, or the strangers'.
    pub(super) fn account(&self, tenant: &Fingerprint) -> Arc<Account> {
        let known = lock(&self.known[shard_of(tenant)]);
        let Some(account) = known.accounts.get(tenant) else { return self.strangers.clone() };
        account.recently_used.store(true, Relaxed);
        account.clone()
    }

    pub(super) fn is_strangers(&self, account: &Arc<Account>) -> bool {
        Arc::ptr_eq(account, &self.strangers)
    }

    /// Gives a tenant that has had a 2xx its own account.
    pub(super) fn know(&self, tenant: Fingerprint) -> Arc<Account> {
        let mut known = lock(&self.known[shard_of(&tenant)]);
        if known.accounts.len() >= known.sweep_at {
            known.sweep();
        }
        let account = known.accounts.entry(tenant).or_default();
        account.recently_used.store(true, Relaxed);
        account.clone()
    }
}

#[cfg(test)]
impl Tenants {
    /// The number of remembered tenants.
    pub(super) fn known_count(&self) -> usize {
        self.known.iter().map(|known| lock(known).accounts.len()).sum()
    }

    /// The room that all tenants take.
    pub(super) fn used(&self) -> Amount {
        let known: Vec<_> =
            self.known.iter().flat_map(|known| lock(known).accounts.values().cloned().collect::<Vec<_>>()).collect();
        known.iter().chain([&self.strangers]).map(|account| account.used.get()).fold(Amount::default(), |sum, used| {
            Amount { bytes: sum.bytes + used.bytes, entries: sum.entries + used.entries }
        })
    }
}

// === impl Known ===

impl Known {
    /// Drops the accounts that take no room: those unused since the last sweep, or all if there are too many.
    fn sweep(&mut self) {
        let takes = |account: &Arc<Account>| account.used.get() != Amount::default() || Arc::strong_count(account) > 1;
        self.accounts.retain(|_, account| account.recently_used.swap(false, Relaxed) || takes(account));
        if self.accounts.len() > IDLE_TENANTS {
            self.accounts.retain(|_, account| takes(account));
        }
        self.sweep_at = self.accounts.len().saturating_mul(2).max(IDLE_TENANTS);
    }
}
