//! Which idle conversation is evicted first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::proto::fingerprint::Fingerprint;

/// The account of a conversation, as a hash; `None`: the shared account of tenants without an answer so far, since any
/// caller can invent tenants.
pub(super) type IdleAccount = Option<u64>;

/// The conversations without a message in flight, in the order in which they became idle.
#[derive(Debug)]
pub(super) struct IdleConversations {
    all: BTreeMap<u64, IdleConversation>,
    accounts: HashMap<IdleAccount, BTreeSet<u64>>,
    next: u64,
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct IdleConversation {
    conversation: Fingerprint,
    account: IdleAccount,
    since: Instant,
}

/// One account has one of this number of equal parts.
const SHARE: usize = 8;

// === impl IdleConversations ===

impl IdleConversations {
    pub(super) fn new(most: usize) -> Self {
        Self { all: BTreeMap::new(), accounts: HashMap::new(), next: 0, most: most.max(1) }
    }

    /// Adds a conversation. Returns its place, and the one that it evicts: the account's oldest if the account has used
    /// its share, else the oldest of all if there is no room.
    pub(super) fn add(
        &mut self,
        conversation: Fingerprint,
        account: IdleAccount,
        since: Instant,
    ) -> (u64, Option<Fingerprint>) {
        let place = self.next;
        self.next = self.next.wrapping_add(1);
        self.all.insert(place, IdleConversation { conversation, account, since });
        let places = self.accounts.entry(account).or_default();
        places.insert(place);
        let oldest = if places.len() > (self.most / SHARE).max(1) {
            places.first().copied()
        } else if self.all.len() > self.most {
            self.all.keys().next().copied()
        } else {
            None
        };
        (place, oldest.and_then(|oldest| self.remove(oldest)))
    }

    pub(super) fn remove(&mut self, place: u64) -> Option<Fingerprint> {
        let entry = self.all.remove(&place)?;
        if let Some(places) = self.accounts.get_mut(&entry.account) {
            places.remove(&place);
            if places.is_empty() {
                self.accounts.remove(&entry.account);
            }
        }
        Some(entry.conversation)
    }

    /// Removes the oldest, if it is this old.
    pub(super) fn take_expired(&mut self, now: Instant, age: Duration) -> Option<Fingerprint> {
        let (place, entry) = self.all.first_key_value()?;
        let is_expired = now.saturating_duration_since(entry.since) >= age;
        let place = *place;
        if is_expired { self.remove(place) } else { None }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    #[cfg(test)]
    pub(super) fn of(&self, account: IdleAccount) -> usize {
        self.accounts.get(&account).map_or(0, BTreeSet::len)
    }
}
