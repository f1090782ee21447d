//! The stored answers, and their eviction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::call::TenantHash;
use crate::proto::fingerprint::{Fingerprint, FingerprintMap};

/// The answers of all tenants, within a number of bytes.
///
/// Each tenant has a share. A tenant that needs room evicts its own answers while it holds more than a fair part; else
/// the oldest answer of all is evicted.
#[derive(Debug)]
pub(crate) struct AnswerCache<V, M> {
    entries: FingerprintMap<CachedAnswer<V, M>>,
    /// The numbers of the answers to requests of this normal form.
    normal: FingerprintMap<BTreeSet<u64>>,
    /// The numbers of the answers to requests that differ only in their last message, if its meaning is known.
    scopes: FingerprintMap<BTreeSet<u64>>,
    /// Oldest first.
    order: BTreeMap<u64, Fingerprint>,
    /// Ordered by expiry.
    expiries: BTreeSet<(Instant, u64)>,
    tenants: FingerprintMap<Holding>,
    next: u64,
    bytes: usize,
    limit: usize,
}

/// The keys of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerKeys {
    pub(crate) tenant: Fingerprint,
    /// The authenticated tenant.
    pub(crate) owner: Option<TenantHash>,
    pub(crate) exact: Fingerprint,
    /// If the request has a normal form.
    pub(crate) normal: Option<Fingerprint>,
}

#[derive(Debug)]
struct CachedAnswer<V, M> {
    value: Arc<V>,
    /// The meaning of its request's last message, and its scope.
    meaning: Option<(Fingerprint, Arc<M>)>,
    keys: AnswerKeys,
    number: u64,
    bytes: usize,
    expires: Instant,
}

/// The room that a tenant uses.
#[derive(Debug, Default)]
struct Holding {
    bytes: usize,
    order: BTreeSet<u64>,
}

/// One tenant may use one of this number of equal parts.
const TENANT_SHARE: usize = 8;
/// The overhead of an entry: its places in six maps, and the value's own fields.
pub(crate) const OVERHEAD: usize = 1024;
/// The most answers that are compared with one request, or checked for a normal form.
const MAX_CANDIDATES: usize = 1_024;
/// The most expired answers that are removed at a time.
const MAX_REAPED: usize = 4;

// === impl AnswerCache ===

impl<V, M> AnswerCache<V, M> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: FingerprintMap::default(),
            normal: FingerprintMap::default(),
            scopes: FingerprintMap::default(),
            order: BTreeMap::new(),
            expiries: BTreeSet::new(),
            tenants: FingerprintMap::default(),
            next: 0,
            bytes: 0,
            limit,
        }
    }

    /// Stores `value`, which takes `bytes`, until `expires`. Returns the answers it replaces, to be dropped outside the
    /// lock.
    pub(crate) fn insert(
        &mut self,
        keys: AnswerKeys,
        value: V,
        bytes: usize,
        expires: Instant,
        now: Instant,
    ) -> Vec<Arc<V>> {
        let bytes = bytes.saturating_add(OVERHEAD);
        let mut dropped: Vec<Arc<V>> = self.remove(keys.exact).into_iter().collect();
        dropped.extend(self.reap(now));
        let share = self.limit / TENANT_SHARE;
        if bytes > share {
            dropped.push(Arc::new(value));
            return dropped;
        }
        while let Some(key) = self.to_evict(keys.tenant, bytes, share) {
            dropped.extend(self.remove(key));
        }
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.order.insert(number, keys.exact);
        self.expiries.insert((expires, number));
        let holding = self.tenants.entry(keys.tenant).or_default();
        holding.bytes += bytes;
        holding.order.insert(number);
        if let Some(normal) = keys.normal {
            self.normal.entry(normal).or_default().insert(number);
        }
        self.entries
            .insert(keys.exact, CachedAnswer { value: Arc::new(value), meaning: None, keys, number, bytes, expires });
        dropped
    }

    /// Returns the answer to exactly this request.
    pub(crate) fn exact(&self, key: Fingerprint, now: Instant) -> Option<Arc<V>> {
        let entry = self.entries.get(&key).filter(|entry| entry.expires > now)?;
        Some(Arc::clone(&entry.value))
    }

    /// Returns the newest acceptable answer to a request of this normal form.
    pub(crate) fn normal(&self, key: Fingerprint, now: Instant, will_do: impl Fn(&Arc<V>) -> bool) -> Option<Arc<V>> {
        self.newest(self.normal.get(&key)?, now).map(|entry| Arc::clone(&entry.value)).find(will_do)
    }

    /// The entries with these numbers that have not expired, newest first.
    fn newest<'a>(&'a self, numbers: &'a BTreeSet<u64>, now: Instant) -> impl Iterator<Item = &'a CachedAnswer<V, M>> {
        let entries = numbers.iter().rev().take(MAX_CANDIDATES);
        let entries = entries.filter_map(|number| self.entries.get(self.order.get(number)?));
        entries.filter(move |entry| entry.expires > now)
    }

    /// Notes the meaning of the last message of an answer's request, which takes `bytes`, for requests that differ only
    /// in that message: those of one `scope`. Does nothing if the answer is gone, or there is no room.
    pub(crate) fn attach(&mut self, exact: Fingerprint, scope: Fingerprint, meaning: M, bytes: usize) {
        let Some(entry) = self.entries.get_mut(&exact).filter(|entry| entry.meaning.is_none()) else { return };
        let Some(holding) = self.tenants.get_mut(&entry.keys.tenant) else { return };
        let fits = holding.bytes.saturating_add(bytes) <= self.limit / TENANT_SHARE
            && self.bytes.saturating_add(bytes) <= self.limit;
        if !fits {
            return;
        }
        entry.bytes += bytes;
        holding.bytes += bytes;
        self.bytes += bytes;
        entry.meaning = Some((scope, Arc::new(meaning)));
        self.scopes.entry(scope).or_default().insert(entry.number);
    }

    /// Whether there is an answer of this scope.
    pub(crate) fn has_scope(&self, scope: Fingerprint) -> bool {
        self.scopes.contains_key(&scope)
    }

    /// Returns the newest answers of a scope, with the meanings of their requests' last messages.
    pub(crate) fn candidates(&self, scope: Fingerprint, now: Instant) -> Vec<(Arc<M>, Arc<V>)> {
        let Some(numbers) = self.scopes.get(&scope) else { return Vec::new() };
        let meant =
            |entry: &CachedAnswer<V, M>| Some((Arc::clone(&entry.meaning.as_ref()?.1), Arc::clone(&entry.value)));
        self.newest(numbers, now).filter_map(meant).collect()
    }

    /// The number of answers, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Removes the answers of this tenant, or of all. Returns them, to be dropped outside the lock.
    pub(crate) fn forget(&mut self, owner: Option<TenantHash>) -> Vec<Arc<V>> {
        let is_theirs = |entry: &&CachedAnswer<V, M>| owner.is_none_or(|owner| entry.keys.owner == Some(owner));
        let keys: Vec<_> = self.entries.values().filter(is_theirs).map(|entry| entry.keys.exact).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Returns the answer to evict for `bytes` of this tenant, if necessary.
    fn to_evict(&self, tenant: Fingerprint, bytes: usize, share: usize) -> Option<Fingerprint> {
        let holding = self.tenants.get(&tenant);
        let held = holding.map_or(0, |holding| holding.bytes);
        let own = || self.oldest_of(tenant);
        if held.saturating_add(bytes) > share {
            return own();
        }
        if self.bytes.saturating_add(bytes) <= self.limit {
            return None;
        }
        let fair = self.limit / (self.tenants.len() + usize::from(holding.is_none())).max(1);
        let oldest = || self.order.values().next().copied();
        if held.saturating_add(bytes) > fair { own().or_else(oldest) } else { oldest() }
    }

    /// Removes some expired answers. Returns them, to be dropped outside the lock.
    pub(crate) fn reap(&mut self, now: Instant) -> Vec<Arc<V>> {
        let mut dropped = Vec::new();
        while let Some(key) = self.over(now).filter(|_| dropped.len() < MAX_REAPED) {
            dropped.extend(self.remove(key));
        }
        dropped
    }

    /// Evicts answers of `bytes` in total, for a new answer of this tenant that has no room in the memory of the stack:
    /// expired ones, and then the tenant's own oldest. Never another tenant's: other data may hold the memory, and
    /// evicting all of it would not help. Returns them, to be dropped outside the lock.
    pub(crate) fn make_room(&mut self, tenant: Fingerprint, bytes: usize, now: Instant) -> Vec<Arc<V>> {
        let (mut dropped, before) = (Vec::new(), self.bytes);
        while before - self.bytes < bytes {
            let Some(key) = self.over(now).or_else(|| self.oldest_of(tenant)) else { break };
            dropped.extend(self.remove(key));
        }
        dropped
    }

    /// Returns the first expired answer.
    fn over(&self, now: Instant) -> Option<Fingerprint> {
        let (_, number) = self.expiries.first().filter(|(expires, _)| *expires <= now)?;
        self.order.get(number).copied()
    }

    fn oldest_of(&self, tenant: Fingerprint) -> Option<Fingerprint> {
        self.order.get(self.tenants.get(&tenant)?.order.first()?).copied()
    }

    fn remove(&mut self, key: Fingerprint) -> Option<Arc<V>> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.bytes;
        self.order.remove(&entry.number);
        self.expiries.remove(&(entry.expires, entry.number));
        if let Some(holding) = self.tenants.get_mut(&entry.keys.tenant) {
            holding.bytes -= entry.bytes;
            holding.order.remove(&entry.number);
            if holding.order.is_empty() {
                self.tenants.remove(&entry.keys.tenant);
            }
        }
        if let Some(normal) = entry.keys.normal {
            remove_number(&mut self.normal, normal, entry.number);
        }
        if let Some((scope, _)) = entry.meaning {
            remove_number(&mut self.scopes, scope, entry.number);
        }
        Some(entry.value)
    }
}

fn remove_number(index: &mut FingerprintMap<BTreeSet<u64>>, key: Fingerprint, number: u64) {
    if let Some(numbers) = index.get_mut(&key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            index.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024;

    fn key(number: u16) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        Fingerprint::from_bytes(bytes)
    }

    fn keys(tenant: u16, exact: u16, normal: Option<u16>) -> AnswerKeys {
        AnswerKeys { tenant: key(tenant), owner: None, exact: key(exact), normal: normal.map(key) }
    }

    #[test]
    fn an_answer_is_found_until_its_time_is_over() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(1024 * KIB), Instant::now());
        let later = now + Duration::from_secs(10);
        answers.insert(keys(1, 2, Some(3)), "a", KIB, later, now);
        assert_eq!(answers.exact(key(2), now).as_deref(), Some(&"a"));
        assert_eq!(answers.normal(key(3), now, |_| true).as_deref(), Some(&"a"));
        assert_eq!((answers.exact(key(3), now), answers.normal(key(2), now, |_| true)), (None, None));
        assert_eq!(answers.exact(key(2), later), None);
        // The next one clears away what is over.
        answers.insert(keys(1, 4, None), "b", KIB, later + Duration::from_secs(1), later);
        assert_eq!(answers.size().0, 1);
    }

    #[test]
    fn the_last_answer_counts_and_the_last_of_a_normal_form() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(1024 * KIB), Instant::now());
        let later = now + Duration::from_secs(10);
        for (exact, value) in [(2, "a"), (2, "b"), (5, "c")] {
            answers.insert(keys(1, exact, Some(3)), value, KIB, later, now);
        }
        assert_eq!(answers.exact(key(2), now).as_deref(), Some(&"b"));
        assert_eq!(answers.normal(key(3), now, |_| true).as_deref(), Some(&"c"));
        assert_eq!(answers.size(), (2, 2 * (KIB + OVERHEAD)));
    }

    #[test]
    fn an_answer_that_will_not_do_hides_no_other_of_its_normal_form() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(1024 * KIB), Instant::now());
        for (exact, value, seconds) in [(2, "lasts", 100), (4, "does not last", 1), (5, "is not wanted", 100)] {
            answers.insert(keys(1, exact, Some(3)), value, KIB, now + Duration::from_secs(seconds), now);
        }
        let later = now + Duration::from_secs(10);
        let wanted = |value: &Arc<&str>| **value != "is not wanted";
        assert_eq!(answers.normal(key(3), later, wanted).as_deref(), Some(&"lasts"));
        // Nor does one that was pushed out.
        answers.remove(key(5));
        answers.remove(key(4));
        assert_eq!(answers.normal(key(3), later, |_| true).as_deref(), Some(&"lasts"));
    }

    #[test]
    fn answers_of_a_scope_are_found_newest_first() {
        let (mut answers, now) = (AnswerCache::new(1024 * KIB), Instant::now());
        for exact in [1, 2, 3] {
            let expires = now + Duration::from_secs(u64::from(exact));
            answers.insert(keys(1, exact, None), exact, KIB, expires, now);
            answers.attach(key(exact), key(9), exact * 10, KIB);
        }
        answers.attach(key(7), key(9), 70, KIB);
        let of = |scope, after| {
            let found = answers.candidates(key(scope), now + Duration::from_secs(after));
            found.into_iter().map(|(meaning, value)| (*meaning, *value)).collect::<Vec<_>>()
        };
        assert_eq!(of(9, 0), [(30, 3), (20, 2), (10, 1)]);
        assert_eq!(of(9, 1), [(30, 3), (20, 2)]);
        assert_eq!(of(8, 0), []);
        assert!(answers.has_scope(key(9)) && !answers.has_scope(key(8)));
    }

    #[test]
    fn one_tenant_does_not_push_out_another() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(80 * KIB), Instant::now());
        let later = now + Duration::from_secs(10);
        answers.insert(keys(1, 1, None), 1, KIB, later, now);
        for number in 2..200 {
            answers.insert(keys(2, number, None), number, KIB, later, now);
        }
        assert!(answers.exact(key(1), now).is_some());
        assert!(answers.size().1 <= 12 * KIB, "a share of an eighth: {:?}", answers.size());
        assert!(answers.exact(key(199), now).is_some(), "its newest are kept");
        let refused = answers.insert(keys(3, 300, None), 300, 10 * KIB, later, now);
        assert_eq!(*refused[0], 300, "larger than a share");
    }

    #[test]
    fn room_is_made_by_what_is_over_and_then_by_a_tenants_own() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(1024 * KIB), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        for (tenant, exact, seconds) in [(1, 1_u16, 100), (1, 2, 5), (2, 3, 1), (2, 4, 100), (1, 5, 100)] {
            answers.insert(keys(tenant, exact, None), exact, KIB, after(seconds), now);
        }
        let mut room = |tenant, bytes, at| {
            let dropped = answers.make_room(key(tenant), bytes, after(at));
            dropped.into_iter().map(|value| *value).collect::<Vec<_>>()
        };
        assert!(room(3, 1, 0).is_empty(), "nothing is over, and it has none");
        assert_eq!(room(3, 1, 10), [3], "what was over first");
        assert_eq!(room(1, 2 * KIB + OVERHEAD, 10), [2, 1]);
        assert_eq!(room(1, 100 * KIB, 10), [5], "another's stays");
        assert!(answers.exact(key(4), now).is_some());
        assert_eq!(answers.reap(after(200)).len(), 1);
        assert_eq!(answers.size(), (0, 0));
    }

    proptest! {
        /// In any order of events the sums are right, and no limit is passed.
        #[test]
        fn the_books_balance(steps in prop::collection::vec((0..5_u16, 0..40_u16, prop::option::of(0..10_u16), 0..9_000_usize, 0..30_u64), 0..200)) {
            let (limit, start) = (64 * KIB, Instant::now());
            let mut answers = AnswerCache::<u16, u16>::new(limit);
            for (step, (tenant, exact, normal, bytes, ttl)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(step as u64);
                // A request belongs to one tenant.
                let keys = keys(tenant, tenant * 100 + exact, normal.map(|normal| 1_000 + tenant * 100 + normal));
                answers.insert(keys, tenant, bytes, now + Duration::from_secs(ttl), now);
                if let Some(scope) = keys.normal {
                    answers.attach(keys.exact, scope, tenant, 700);
                    prop_assert!(answers.candidates(scope, now).iter().all(|(meaning, value)| meaning == value));
                }
                let sum: usize = answers.entries.values().map(|entry| entry.bytes).sum();
                prop_assert_eq!(sum, answers.bytes);
                prop_assert!(sum <= limit);
                prop_assert_eq!(answers.order.len(), answers.entries.len());
                prop_assert_eq!(answers.expiries.len(), answers.entries.len());
                for (tenant, holding) in &answers.tenants {
                    let of = answers.entries.values().filter(|entry| entry.keys.tenant == *tenant);
                    prop_assert_eq!(of.map(|entry| entry.bytes).sum::<usize>(), holding.bytes);
                    prop_assert!(holding.bytes <= limit / TENANT_SHARE && holding.bytes > 0);
                }
                let scoped: usize = answers.scopes.values().map(BTreeSet::len).sum();
                prop_assert_eq!(scoped, answers.entries.values().filter(|entry| entry.meaning.is_some()).count());
                let normal: usize = answers.normal.values().map(BTreeSet::len).sum();
                prop_assert_eq!(normal, answers.entries.values().filter(|entry| entry.keys.normal.is_some()).count());
            }
        }
    }

    #[test]
    fn a_share_may_be_used_up_and_a_single_answer_may_take_it() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(80 * KIB), Instant::now());
        let later = now + Duration::from_secs(10);
        for number in 0..10 {
            answers.insert(keys(1, number, None), number, KIB - OVERHEAD, later, now);
        }
        assert_eq!(answers.size(), (10, 10 * KIB));
        answers.insert(keys(1, 10, None), 10, KIB - OVERHEAD, later, now);
        assert_eq!(answers.size(), (10, 10 * KIB));
        assert!(answers.exact(key(0), now).is_none());
        answers.insert(keys(2, 100, None), 100, 10 * KIB - OVERHEAD, later, now);
        assert!(answers.exact(key(100), now).is_some());
        let refused = answers.insert(keys(3, 200, None), 200, 10 * KIB - OVERHEAD + 1, later, now);
        assert_eq!(*refused[0], 200);
    }

    #[test]
    fn in_a_full_memory_a_tenant_beyond_a_fair_part_makes_room_itself() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(80 * KIB), Instant::now());
        let later = now + Duration::from_secs(10);
        let mut insert = |tenant: u16, number: u16| {
            answers.insert(keys(tenant, 100 * tenant + number, None), number, KIB - OVERHEAD, later, now);
            (answers.exact(key(100), now).is_some(), answers.exact(key(800), now).is_some(), answers.size().0)
        };
        for number in 0..10 {
            for tenant in 1..8 {
                insert(tenant, number);
            }
        }
        for number in 0..9 {
            insert(8, number);
        }
        assert_eq!(insert(9, 0), (true, true, 80), "full");
        assert_eq!(insert(8, 9), (true, false, 80), "it has more than a ninth, and its own oldest goes");
        assert_eq!(insert(9, 1), (false, false, 80), "one that has less pushes out the oldest of all");
    }

    #[test]
    fn a_tenant_that_comes_to_its_fair_part_has_no_more_than_that() {
        let (mut answers, now) = (AnswerCache::<_, ()>::new(80 * KIB), Instant::now());
        let later = now + Duration::from_secs(10);
        let mut insert = |tenant: u16, number: u16| {
            answers.insert(keys(tenant, 100 * tenant + number, None), number, KIB - OVERHEAD, later, now);
            (answers.exact(key(100), now).is_some(), answers.exact(key(800), now).is_some(), answers.size().0)
        };
        for (tenant, count) in [(1, 10), (2, 10), (3, 10), (4, 10), (5, 10), (6, 10), (7, 10), (8, 7), (9, 2), (10, 1)]
        {
            for number in 0..count {
                insert(tenant, number);
            }
        }
        assert_eq!(insert(8, 7), (false, true, 80), "a tenth, which is its part: the oldest of all goes");
        assert_eq!(insert(8, 8), (false, false, 80), "more than that: its own");
    }
}
