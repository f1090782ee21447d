use proptest::prelude::*;

use std::time::Duration;

use super::shards::lock;
use super::*;
use crate::policy::broadcast::LogLimits;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::rt::clock;
use crate::store::{Lease, LogReader, Recorder, Retention};

const S: Duration = Duration::from_secs(1);
const LIMITS: LogLimits = LogLimits { bytes: 1 << 20, lag: Duration::from_secs(5) };

fn print(kind: &'static str, number: usize) -> Fingerprint {
    let mut print = Fingerprinter::new(kind);
    print.field(&number.to_le_bytes());
    print.finish(0)
}

fn request(tenant: usize, key: usize, now: Instant) -> ClaimRequest {
    let (key, payload) = (print("key", key), print("payload", 0));
    ClaimRequest {
        key,
        payload,
        tenant: print("tenant", tenant),
        owner: None,
        has_client_key: true,
        now,
        limits: LIMITS,
    }
}

fn claim(store: &MemoryStore, tenant: usize, key: usize, now: Instant) -> Claim<MemoryLease> {
    MemoryLease::claim(&store.stored, &request(tenant, key, now))
}

/// Leads, and is answered with a 2xx.
fn known(store: &MemoryStore, tenant: usize, now: Instant) {
    let Claim::Lead { mut lease, .. } = claim(store, tenant, usize::MAX - tenant, now) else { panic!("no lead") };
    lease.accepted();
}

fn keep(store: &MemoryStore, tenant: usize, key: usize, now: Instant, guaranteed: bool) -> bool {
    let Claim::Lead { lease, recorder } = claim(store, tenant, key, now) else { return false };
    lease.keep(Retention { now, window: 60 * S, guaranteed });
    recorder.finish();
    true
}

fn is_kept(store: &MemoryStore, tenant: usize, key: usize, now: Instant) -> bool {
    matches!(claim(store, tenant, key, now), Claim::Replay(_))
}

/// How many keys a tenant can have kept for their time.
fn fill(store: &MemoryStore, tenant: usize, now: Instant) -> usize {
    (0..).take_while(|key| keep(store, tenant, tenant * 1_000_000 + key, now, true)).count()
}

#[test]
fn a_tenant_takes_an_eighth_and_no_more() {
    let (store, now) = (MemoryStore::new(1 << 30, 800), clock::now());
    (0..9).for_each(|tenant| known(&store, tenant, now));
    for tenant in 0..8 {
        assert_eq!(fill(&store, tenant, now), 100);
    }
    // Now it is full for all.
    let Claim::Full { retry_after } = claim(&store, 8, 8_000_000, now + S) else { panic!("not full") };
    assert_eq!(retry_after, Some(59 * S));
    assert_eq!(store.len(), 800);
    store.forget_expired(now + 60 * S);
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn strangers_share_one_eighth() {
    let (store, now) = (MemoryStore::new(1 << 30, 800), clock::now());
    known(&store, 1_000, now);
    let strangers = (0..1_000).filter(|&tenant| keep(&store, tenant, tenant, now, true)).count();
    assert_eq!(strangers, 100);
    assert_eq!(fill(&store, 1_000, now), 100, "a tenant that the upstream knows has a share of its own");
    // The strangers' answers that are kept do not become another tenant's.
    assert!(is_kept(&store, 0, 0, now));
}

#[test]
fn a_stranger_that_gets_a_2xx_takes_its_calls_along() {
    let (store, now) = (MemoryStore::new(1 << 30, 80), clock::now());
    let mut held = Vec::new();
    for key in 0..10 {
        let Claim::Lead { mut lease, recorder } = claim(&store, 0, key, now) else { panic!("no lead") };
        lease.resize(5_000);
        lease.accepted();
        held.push((lease, recorder));
    }
    assert!(matches!(claim(&store, 0, 10, now), Claim::Full { .. }));
    assert!(matches!(claim(&store, 1, 11, now), Claim::Lead { .. }), "the strangers have their share back");
}

#[test]
fn bytes_are_shared_like_entries() {
    let (store, now) = (MemoryStore::new(800 * 1024, 1_000), clock::now());
    known(&store, 0, now);
    let Claim::Lead { mut lease, .. } = claim(&store, 0, 0, now) else { panic!("no lead") };
    assert!(lease.resize(90 * 1024));
    assert!(!lease.resize(101 * 1024), "more than an eighth");
    assert!(lease.resize(50 * 1024));
    let Claim::Lead { lease: mut others, .. } = claim(&store, 1, 1, now) else { panic!("no lead") };
    assert!(others.resize(90 * 1024), "a stranger has the strangers' eighth");
}

#[test]
fn one_tenant_may_have_all_of_it_where_there_is_but_one() {
    let (store, now) = (MemoryStore::new(1 << 30, 800).tenant_shares(1), clock::now());
    assert_eq!(fill(&store, 0, now), 800);
}

#[test]
fn the_smallest_store_holds_a_call_of_any_tenant() {
    let (store, now) = (MemoryStore::new(1 << 20, 1), clock::now());
    assert!(keep(&store, 0, 0, now, false));
    assert!(keep(&store, 1, 1, now, false));
    assert_eq!(store.len(), 1);
    let store = MemoryStore::new(0, 0);
    assert!(!keep(&store, 0, 0, now, false));
}

#[test]
fn the_oldest_evictable_entry_makes_room() {
    let (store, start) = (MemoryStore::new(1 << 30, 80), clock::now());
    known(&store, 0, start);
    let at = |key: u32| start + key * Duration::from_millis(10);
    for key in 0..50 {
        assert!(keep(&store, 0, key as usize, at(key), key < 5), "{key}");
    }
    // Ten places: five that are kept for their time, and the five that came last.
    let kept: Vec<usize> = (0..50).filter(|&key| store.is_kept_without_a_claim(key)).collect();
    assert_eq!(kept, (0..5).chain(45..50).collect::<Vec<_>>());
}

#[test]
fn in_a_store_that_is_full_of_many_the_oldest_of_all_makes_room() {
    let (store, start) = (MemoryStore::new(1 << 30, 16).tenant_shares(2), clock::now());
    for key in 0..40 {
        known(&store, key, start);
        assert!(keep(&store, key, key, start + u32::try_from(key).unwrap() * Duration::from_millis(10), false));
    }
    let kept: Vec<usize> = (0..40).filter(|&key| store.is_kept_without_a_claim(key)).collect();
    assert_eq!(kept, (24..40).collect::<Vec<_>>());
}

#[test]
fn tenants_that_take_nothing_are_forgotten_when_there_are_many() {
    let (store, now) = (MemoryStore::new(1 << 30, 1 << 20), clock::now());
    let Claim::Lead { mut lease, recorder } = claim(&store, 0, 0, now) else { panic!("no lead") };
    lease.accepted();
    (1..50_000).for_each(|tenant| known(&store, tenant, now));
    assert!(store.stored.tenants.known_count() < 2 * 16 * 1024 + 16);
    // One that has something is not.
    let account = store.stored.tenants.account(&print("tenant", 0));
    assert!(!store.stored.tenants.is_strangers(&account));
    drop((lease, recorder));
}

impl MemoryStore {
    fn is_kept_without_a_claim(&self, key: usize) -> bool {
        let key = print("key", key);
        lock(self.stored.shard(&key)).has_kept(&key)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Claim { tenant: usize, key: usize },
    Resize(usize, usize),
    Accepted(usize),
    Release(usize),
    Keep(usize, bool),
    Drop(usize),
    Fail(usize),
    Listen(usize),
    StopListening(usize),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..4, 0_usize..12).prop_map(|(tenant, key)| Step::Claim { tenant, key }),
        4 => (0_usize..16, 0_usize..40_000).prop_map(|(call, bytes)| Step::Resize(call, bytes)),
        2 => (0_usize..16).prop_map(Step::Accepted),
        1 => (0_usize..16).prop_map(Step::Release),
        4 => (0_usize..16, any::<bool>()).prop_map(|(call, guaranteed)| Step::Keep(call, guaranteed)),
        1 => (0_usize..16).prop_map(Step::Drop),
        1 => (0_usize..16).prop_map(Step::Fail),
        2 => (0_usize..16).prop_map(Step::Listen),
        2 => (0_usize..16).prop_map(Step::StopListening),
        1 => (0_u64..80).prop_map(Step::Advance),
    ]
}

proptest! {
    /// In any order of events there are never more entries than may be, and in the end everything was given back.
    #[test]
    fn everything_is_given_back(steps in prop::collection::vec(step(), 0..200)) {
        let store = MemoryStore::new(100_000, 20);
        let mut now = clock::now();
        let mut calls: Vec<(MemoryLease, Recorder)> = Vec::new();
        let mut readers: Vec<LogReader> = Vec::new();
        for step in steps {
            match step {
                Step::Claim { tenant, key } => match claim(&store, tenant, tenant * 100 + key, now) {
                    Claim::Lead { lease, recorder } => calls.push((lease, recorder)),
                    Claim::Follow(log) | Claim::Replay(log) => readers.extend(log.reader()),
                    Claim::Full { .. } => {}
                    Claim::Mismatch => prop_assert!(false, "all have the same payload"),
                },
                Step::Resize(call, bytes) if call < calls.len() => drop(calls[call].0.resize(bytes)),
                Step::Accepted(call) if call < calls.len() => calls[call].0.accepted(),
                Step::Release(call) if call < calls.len() => calls[call].0.release(),
                Step::Keep(call, guaranteed) if call < calls.len() => {
                    let (lease, recorder) = calls.swap_remove(call);
                    lease.keep(Retention { now, window: 60 * S, guaranteed });
                    recorder.finish();
                }
                Step::Drop(call) if call < calls.len() => drop(calls.swap_remove(call)),
                Step::Fail(call) if call < calls.len() => {
                    let (lease, recorder) = calls.swap_remove(call);
                    recorder.fail("cut");
                    drop(lease);
                }
                Step::Listen(call) if call < calls.len() => readers.extend(calls[call].1.log().reader()),
                Step::StopListening(reader) if reader < readers.len() => drop(readers.swap_remove(reader)),
                Step::Advance(seconds) => now += Duration::from_secs(seconds),
                _ => {}
            }
            prop_assert!(store.len() <= 20, "{} entries", store.len());
        }
        drop((calls, readers));
        store.forget_expired(now + 60 * S);
        prop_assert_eq!((store.len(), store.bytes()), (0, 0));
        prop_assert_eq!(store.stored.tenants.used(), Amount::default());
    }
}
