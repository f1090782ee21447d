use std::collections::HashMap;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::*;
use crate::error::BoxError;
use crate::store::MemoryStore;

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_holds_to_all_of_it() {
    run(MemoryStore::default).await;
    run_full(|| MemoryStore::new(1024 * 1024, 1)).await;
    run_fair(|| MemoryStore::new(1024 * 1024, 64)).await;
    run_shared(|| {
        let store = MemoryStore::default();
        (store.clone(), store)
    })
    .await;
}

/// What a store may get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It looks, and takes the key a moment later.
    LooksBeforeItLeaps,
    ComparesTheBeginningOfKeys,
    ComparesTheEndOfKeys,
    ComparesTheBeginningOfPayloads,
    FollowsWhateverThePayload,
    ReplaysWhateverThePayload,
    FollowsALostCall,
    KeepsWhatIsWholeUnasked,
    KeepsForEver,
    DoesNotReplay,
    HoldsTheKeyAfterTheLease,
    ReleasesWhoeverHasTheKey,
    KeepsWhoeverHasTheKey,
    DropsTrailers,
    DropsHeaders,
    TakesAFailureForAnEnd,
}

const FAULTS: [Fault; 16] = [
    Fault::LooksBeforeItLeaps,
    Fault::ComparesTheBeginningOfKeys,
    Fault::ComparesTheEndOfKeys,
    Fault::ComparesTheBeginningOfPayloads,
    Fault::FollowsWhateverThePayload,
    Fault::ReplaysWhateverThePayload,
    Fault::FollowsALostCall,
    Fault::KeepsWhatIsWholeUnasked,
    Fault::KeepsForEver,
    Fault::DoesNotReplay,
    Fault::HoldsTheKeyAfterTheLease,
    Fault::ReleasesWhoeverHasTheKey,
    Fault::KeepsWhoeverHasTheKey,
    Fault::DropsTrailers,
    Fault::DropsHeaders,
    Fault::TakesAFailureForAnEnd,
];

/// The simplest store there is, with one fault.
#[derive(Clone)]
struct Naive {
    fault: Fault,
    entries: Arc<Mutex<HashMap<Fingerprint, Entry>>>,
    leases: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Entry {
    lease: usize,
    payload: Fingerprint,
    log: ResponseLog,
    expires: Option<Instant>,
}

struct NaiveLease {
    store: Naive,
    key: Fingerprint,
    id: usize,
}

/// The standard library's own, also under a model checker.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Naive {
    fn look(&self, key: Fingerprint, request: &ClaimRequest) -> Option<Claim<NaiveLease>> {
        let mut entries = lock(&self.entries);
        let entry = entries.get(&key)?.clone();
        let expired = entry.expires.is_some_and(|expires| expires <= request.now && self.fault != Fault::KeepsForEver);
        let lost = entry.log.has_failed() && self.fault != Fault::FollowsALostCall;
        if expired || lost || (entry.expires.is_some() && self.fault == Fault::DoesNotReplay) {
            entries.remove(&key);
            return None;
        }
        let same = |payload: Fingerprint| match self.fault {
            Fault::ComparesTheBeginningOfPayloads => payload.as_bytes()[..16] == request.payload.as_bytes()[..16],
            Fault::FollowsWhateverThePayload => entry.expires.is_none() || payload == request.payload,
            Fault::ReplaysWhateverThePayload => entry.expires.is_some() || payload == request.payload,
            _ => payload == request.payload,
        };
        if !same(entry.payload) {
            return Some(Claim::Mismatch);
        }
        let log = self.spoil(entry.log);
        Some(if entry.expires.is_some() { Claim::Replay(log) } else { Claim::Follow(log) })
    }

    fn lead(&self, key: Fingerprint, request: &ClaimRequest) -> Claim<NaiveLease> {
        let (recorder, log) = request.open_log();
        let id = self.leases.fetch_add(1, Relaxed);
        lock(&self.entries).insert(key, Entry { lease: id, payload: request.payload, log, expires: None });
        Claim::Lead { lease: NaiveLease { store: self.clone(), key, id }, recorder }
    }

    /// A log with the same content as another, as a store for several processes does.
    fn spoil(&self, log: ResponseLog) -> ResponseLog {
        if !matches!(self.fault, Fault::DropsTrailers | Fault::DropsHeaders | Fault::TakesAFailureForAnEnd) {
            return log;
        }
        let Some(mut source) = log.reader() else { return log };
        let (mut recorder, fed) = Recorder::open(LIMITS);
        let fault = self.fault;
        tokio::spawn(async move {
            let Ok(head) = poll_fn(|cx| source.poll_head(cx)).await else { return };
            let headers = if fault == Fault::DropsHeaders { HeaderMap::new() } else { head.headers().clone() };
            recorder.head(Head::new(head.status(), head.version(), headers, clock::now()));
            while let Some(part) = poll_fn(|cx| source.poll_part(cx)).await {
                match part {
                    Ok(BodyPart::Trailers(_)) if fault == Fault::DropsTrailers => {}
                    Ok(part) => recorder.part(part),
                    Err(_) if fault == Fault::TakesAFailureForAnEnd => break,
                    Err(why) => return recorder.fail(why),
                }
            }
            recorder.finish();
        });
        fed
    }
}

impl Store for Naive {
    type Lease = NaiveLease;
    type Claim = Pin<Box<dyn Future<Output = Result<Claim<NaiveLease>, BoxError>> + Send>>;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        let mut key = *request.key().as_bytes();
        match self.fault {
            Fault::ComparesTheBeginningOfKeys => key[16..].fill(0),
            Fault::ComparesTheEndOfKeys => key[..16].fill(0),
            _ => {}
        }
        let (store, key) = (self.clone(), Fingerprint::from_bytes(key));
        let found = store.look(key, &request);
        if store.fault == Fault::LooksBeforeItLeaps {
            return Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(found.unwrap_or_else(|| store.lead(key, &request)))
            });
        }
        let claim: Ready<_> = ready(Ok(found.unwrap_or_else(|| store.lead(key, &request))));
        Box::pin(claim)
    }
}

impl NaiveLease {
    fn has_key(&self) -> bool {
        lock(&self.store.entries).get(&self.key).is_some_and(|entry| entry.lease == self.id)
    }

    fn expire_at(&self, expires: Instant) {
        if let Some(entry) = lock(&self.store.entries).get_mut(&self.key) {
            entry.expires = Some(expires);
        }
    }
}

impl Lease for NaiveLease {
    fn resize(&mut self, _: usize) -> bool {
        true
    }

    fn release(&mut self) {
        if self.has_key() || self.store.fault == Fault::ReleasesWhoeverHasTheKey {
            lock(&self.store.entries).remove(&self.key);
        }
    }

    fn keep(self, retention: Retention) {
        if self.has_key() || self.store.fault == Fault::KeepsWhoeverHasTheKey {
            self.expire_at(retention.now() + retention.window());
        }
    }
}

impl Drop for NaiveLease {
    fn drop(&mut self) {
        let kept = |entry: &Entry| entry.expires.is_some();
        if !self.has_key() || lock(&self.store.entries).get(&self.key).is_some_and(kept) {
            return;
        }
        match self.store.fault {
            Fault::HoldsTheKeyAfterTheLease => {}
            Fault::KeepsWhatIsWholeUnasked => self.expire_at(clock::now() + LONG),
            _ => drop(lock(&self.store.entries).remove(&self.key)),
        }
    }
}

/// Whether the suite finds nothing wrong.
async fn passes(fault: Fault) -> bool {
    let new = move || Naive { fault, entries: Arc::default(), leases: Arc::default() };
    tokio::spawn(run(new)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_store_without_a_fault_passes() {
    assert!(passes(Fault::None).await);
}

#[tokio::test(start_paused = true)]
async fn every_fault_is_found() {
    let mut missed = Vec::new();
    for fault in FAULTS {
        if passes(fault).await {
            missed.push(fault);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_makes_room_at_any_price_is_found() {
    let forgetful = || Naive { fault: Fault::None, entries: Arc::default(), leases: Arc::default() };
    assert!(tokio::spawn(run_full(forgetful)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_one_tenant_can_take_is_found() {
    let unfair = || MemoryStore::new(1024 * 1024, 64).tenant_shares(1);
    assert!(tokio::spawn(run_fair(unfair)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn two_stores_that_share_nothing_are_found() {
    let apart = || (MemoryStore::default(), MemoryStore::default());
    assert!(tokio::spawn(run_shared(apart)).await.is_err());
}
