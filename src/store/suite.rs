//! What every [`Store`] must hold to, put to the test.
//!
//! For the tests of whoever writes a store: each check panics with what it found. They use the store's own time, and
//! none takes longer than a second or two.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! use tower_buttress::store::{MemoryStore, suite};
//!
//! suite::run(MemoryStore::default).await;
//! suite::run_full(|| MemoryStore::new(1024 * 1024, 1)).await;
//! # }
//! ```

#![allow(clippy::panic, clippy::manual_assert, reason = "a check fails by panicking")]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::{Ask, Claim, Head, Lease, Log, Part, Reader, Recorder, Store};
use crate::policy::flight::Limits;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::rt::clock;

const LIMITS: Limits = Limits { bytes: 64 * 1024, lag: Duration::from_secs(5) };
const WINDOW: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(60);

/// Runs every check but those of [`run_full`], each on a store that `new` made.
///
/// # Panics
///
/// When the store does not hold to its contract.
pub async fn run<St: Store>(mut new: impl FnMut() -> St) {
    one_leads_and_the_others_follow(new()).await;
    of_those_who_claim_at_once_one_leads(new()).await;
    a_follower_hears_what_is_said_live(new()).await;
    a_follower_is_told_that_it_broke_off(new()).await;
    another_payload_is_a_mismatch_in_flight_and_kept(new()).await;
    other_keys_are_other_calls(new()).await;
    a_lease_that_is_dropped_frees_its_key(new()).await;
    what_was_not_kept_is_not_replayed(new()).await;
    a_lease_that_is_released_frees_its_key_and_no_other(new()).await;
    what_is_kept_is_replayed_and_for_its_window_only(new()).await;
    a_lost_call_is_not_followed(new()).await;
}

/// Runs the checks of what happens when there is no room: on stores that hold one call and no more.
///
/// # Panics
///
/// When the store does not hold to its contract.
pub async fn run_full<St: Store>(mut new: impl FnMut() -> St) {
    what_is_in_flight_is_not_forgotten_to_make_room(new()).await;
    what_was_promised_is_not_forgotten_to_make_room(new()).await;
}

async fn one_leads_and_the_others_follow<St: Store>(store: St) {
    let (_lease, recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    for _ in 0..3 {
        follow(&store, ask("a", "payload")).await;
    }
    drop(own);
}

async fn of_those_who_claim_at_once_one_leads<St: Store>(store: St) {
    let claims: Vec<_> = (0..8).map(|_| tokio::spawn(store.claim(ask("a", "payload")))).collect();
    let mut led = Vec::new();
    for claim in claims {
        match claim.await {
            Ok(Ok(Claim::Lead { lease, recorder })) => led.push((recorder.log().reader(), lease, recorder)),
            Ok(Ok(Claim::Follow(_))) => {}
            Ok(other) => panic!("somebody does this: to be followed, and not {}", name(&other)),
            Err(why) => panic!("a claim does not end: {why}"),
        }
    }
    assert_eq!(led.len(), 1, "of those who claim at once one leads");
}

async fn a_follower_hears_what_is_said_live<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    recorder.part(Part::Data(Bytes::from_static(b"one")));
    let mut reader = listen(&follow(&store, ask("a", "payload")).await);
    recorder.part(Part::Data(Bytes::from_static(b"two")));
    recorder.part(Part::Trailers(Arc::new(headers("x-checksum"))));
    recorder.finish();
    assert_eq!(hear(&mut reader).await, "onetwo", "a follower hears it from the first part on");
    drop((lease, own));
}

async fn a_follower_is_told_that_it_broke_off<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    recorder.part(Part::Data(Bytes::from_static(b"one")));
    let mut reader = listen(&follow(&store, ask("a", "payload")).await);
    recorder.fail("it broke off");
    let heard = poll_fn(|cx| reader.poll_part(cx)).await;
    assert!(matches!(heard, Some(Ok(Part::Data(data))) if data == "one"), "a follower hears what was said before");
    let heard = poll_fn(|cx| reader.poll_part(cx)).await;
    assert!(matches!(heard, Some(Err(_))), "what broke off does not look whole");
    drop((lease, own));
}

async fn another_payload_is_a_mismatch_in_flight_and_kept<St: Store>(store: St) {
    let first = ask("a", "payload");
    let others = || nearly(first.payload).into_iter().chain([print("another")]);
    let (lease, recorder) = lead(&store, first).await;
    let own = recorder.log().reader();
    for payload in others() {
        let in_flight = store.claim(Ask { payload, ..first }).await;
        assert!(matches!(in_flight, Ok(Claim::Mismatch)), "in flight, another payload is a mismatch");
    }
    complete(lease, recorder, LONG);
    for payload in others() {
        let kept = store.claim(Ask { payload, ..first }).await;
        assert!(matches!(kept, Ok(Claim::Mismatch)), "kept, another payload is a mismatch");
    }
    drop(own);
}

async fn other_keys_are_other_calls<St: Store>(store: St) {
    let first = ask("a", "payload");
    let (lease, recorder) = lead(&store, first).await;
    let own = recorder.log().reader();
    let mut others = Vec::new();
    for key in nearly(first.key).into_iter().chain([print("b")]) {
        others.push(lead(&store, Ask { key, ..first }).await);
    }
    complete(lease, recorder, LONG);
    drop((own, others));
}

async fn a_lease_that_is_dropped_frees_its_key<St: Store>(store: St) {
    drop(lead(&store, ask("a", "payload")).await);
    // With another payload: nothing of the first is left.
    drop(lead(&store, ask("a", "another")).await);
}

async fn what_was_not_kept_is_not_replayed<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, ask("a", "payload")).await;
    recorder.head(head());
    drop(lease);
    // It is whole, and for those who hear it.
    recorder.finish();
    drop(lead(&store, ask("a", "payload")).await);
}

async fn a_lease_that_is_released_frees_its_key_and_no_other<St: Store>(store: St) {
    let (mut first, recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    first.release();
    let (second, second_recorder) = lead(&store, ask("a", "payload")).await;
    let second_own = second_recorder.log().reader();
    // Too late: the key is another's now.
    first.resize(100);
    first.release();
    first.keep(clock::now(), LONG);
    drop((recorder, own));
    follow(&store, ask("a", "payload")).await;
    drop((second, second_recorder, second_own));
}

async fn what_is_kept_is_replayed_and_for_its_window_only<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, ask("a", "payload")).await;
    complete(lease, recorder, WINDOW);
    for _ in 0..2 {
        let mut reader = match store.claim(ask("a", "payload")).await {
            Ok(Claim::Replay(log)) => listen(&log),
            other => panic!("what is kept is replayed, and not {}", name(&other)),
        };
        assert_eq!(hear(&mut reader).await, "answer");
    }
    tokio::time::sleep(WINDOW * 2).await;
    drop(lead(&store, ask("a", "payload")).await);
}

async fn a_lost_call_is_not_followed<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, ask("a", "payload")).await;
    recorder.fail("it broke off");
    drop(lead(&store, ask("a", "payload")).await);
    drop(lease);
}

async fn what_is_in_flight_is_not_forgotten_to_make_room<St: Store>(store: St) {
    let (_lease, recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    full(&store, ask("b", "payload")).await;
    follow(&store, ask("a", "payload")).await;
    drop(own);
}

async fn what_was_promised_is_not_forgotten_to_make_room<St: Store>(store: St) {
    let guaranteed = |key| Ask { guaranteed: true, ..ask(key, "payload") };
    let (lease, recorder) = lead(&store, guaranteed("a")).await;
    complete(lease, recorder, WINDOW);
    full(&store, guaranteed("b")).await;
    let again = store.claim(guaranteed("a")).await;
    assert!(matches!(again, Ok(Claim::Replay(_))), "what was guaranteed is replayed, and not {}", name(&again));
    tokio::time::sleep(WINDOW * 2).await;
    drop(lead(&store, guaranteed("b")).await);
}

// === what a check is made of ===

fn ask(key: &str, payload: &str) -> Ask {
    Ask { key: print(key), payload: print(payload), guaranteed: false, now: clock::now(), limits: LIMITS }
}

fn print(text: &str) -> Fingerprint {
    let mut print = Fingerprinter::new("store suite");
    print.field(text.as_bytes());
    print.finish(0)
}

async fn lead<St: Store>(store: &St, ask: Ask) -> (St::Lease, Recorder) {
    match store.claim(ask).await {
        Ok(Claim::Lead { lease, recorder }) => (lease, recorder),
        other => panic!("nobody else does this: to be led, and not {}", name(&other)),
    }
}

async fn follow<St: Store>(store: &St, ask: Ask) -> Log {
    match store.claim(ask).await {
        Ok(Claim::Follow(log)) => log,
        other => panic!("somebody does this: to be followed, and not {}", name(&other)),
    }
}

async fn full<St: Store>(store: &St, ask: Ask) {
    let claim = store.claim(ask).await;
    assert!(matches!(claim, Ok(Claim::Full { .. })), "there is no room, and not {}", name(&claim));
}

/// Those that differ from `print` in their first bit, or in their last.
fn nearly(print: Fingerprint) -> [Fingerprint; 2] {
    [(0, 0x80), (31, 0x01)].map(|(at, bit)| {
        let mut bytes = *print.as_bytes();
        bytes[at] ^= bit;
        Fingerprint::from_bytes(bytes)
    })
}

fn head() -> Head {
    Head::new(StatusCode::OK, Version::HTTP_11, headers("x-model"), clock::now())
}

fn headers(name: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("m"))])
}

fn complete(mut lease: impl Lease, mut recorder: Recorder, window: Duration) {
    recorder.head(head());
    recorder.part(Part::Data(Bytes::from_static(b"answer")));
    recorder.part(Part::Trailers(Arc::new(headers("x-checksum"))));
    assert!(lease.resize(100), "there is room for a hundred bytes");
    lease.keep(clock::now(), window);
    recorder.finish();
}

fn listen(log: &Log) -> Reader {
    log.reader().unwrap_or_else(|| panic!("a log that is followed or replayed can be heard"))
}

async fn hear(reader: &mut Reader) -> String {
    let head = poll_fn(|cx| reader.poll_head(cx)).await;
    let same = |head: &Head| head.status() == StatusCode::OK && *head.headers() == headers("x-model");
    assert!(head.is_ok_and(|head| same(&head)), "the head is the leader's");
    let (mut heard, mut trailers) = (Vec::new(), None);
    while let Some(part) = poll_fn(|cx| reader.poll_part(cx)).await {
        match part {
            Ok(Part::Data(data)) => heard.extend_from_slice(&data),
            Ok(Part::Trailers(said)) => trailers = Some(said),
            Err(why) => panic!("the call broke off: {why}"),
        }
    }
    assert!(trailers.is_some_and(|said| *said == headers("x-checksum")), "the trailers are the leader's");
    String::from_utf8_lossy(&heard).into_owned()
}

fn name<L>(claim: &Result<Claim<L>, crate::error::BoxError>) -> &'static str {
    match claim {
        Ok(Claim::Lead { .. }) => "Lead",
        Ok(Claim::Follow(_)) => "Follow",
        Ok(Claim::Replay(_)) => "Replay",
        Ok(Claim::Mismatch) => "Mismatch",
        Ok(Claim::Full { .. }) => "Full",
        Err(_) => "an error",
    }
}

#[cfg(test)]
mod tests {
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
        log: Log,
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
        fn look(&self, key: Fingerprint, ask: &Ask) -> Option<Claim<NaiveLease>> {
            let mut entries = lock(&self.entries);
            let entry = entries.get(&key)?.clone();
            let expired = entry.expires.is_some_and(|expires| expires <= ask.now && self.fault != Fault::KeepsForEver);
            let lost = entry.log.is_lost() && self.fault != Fault::FollowsALostCall;
            if expired || lost || (entry.expires.is_some() && self.fault == Fault::DoesNotReplay) {
                entries.remove(&key);
                return None;
            }
            let same = |payload: Fingerprint| match self.fault {
                Fault::ComparesTheBeginningOfPayloads => payload.as_bytes()[..16] == ask.payload.as_bytes()[..16],
                Fault::FollowsWhateverThePayload => entry.expires.is_none() || payload == ask.payload,
                Fault::ReplaysWhateverThePayload => entry.expires.is_some() || payload == ask.payload,
                _ => payload == ask.payload,
            };
            if !same(entry.payload) {
                return Some(Claim::Mismatch);
            }
            let log = self.spoil(entry.log);
            Some(if entry.expires.is_some() { Claim::Replay(log) } else { Claim::Follow(log) })
        }

        fn lead(&self, key: Fingerprint, ask: &Ask) -> Claim<NaiveLease> {
            let (recorder, log) = ask.open();
            let id = self.leases.fetch_add(1, Relaxed);
            lock(&self.entries).insert(key, Entry { lease: id, payload: ask.payload, log, expires: None });
            Claim::Lead { lease: NaiveLease { store: self.clone(), key, id }, recorder }
        }

        /// A log that is told what another is told, as a store for several processes does.
        fn spoil(&self, log: Log) -> Log {
            if !matches!(self.fault, Fault::DropsTrailers | Fault::DropsHeaders | Fault::TakesAFailureForAnEnd) {
                return log;
            }
            let Some(mut source) = log.reader() else { return log };
            let (mut recorder, fed) = Log::new(LIMITS);
            let fault = self.fault;
            tokio::spawn(async move {
                let Ok(head) = poll_fn(|cx| source.poll_head(cx)).await else { return };
                let headers = if fault == Fault::DropsHeaders { HeaderMap::new() } else { head.headers().clone() };
                recorder.head(Head::new(head.status(), head.version(), headers, head.born()));
                while let Some(part) = poll_fn(|cx| source.poll_part(cx)).await {
                    match part {
                        Ok(Part::Trailers(_)) if fault == Fault::DropsTrailers => {}
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

        fn claim(&self, ask: Ask) -> Self::Claim {
            let mut key = *ask.key().as_bytes();
            match self.fault {
                Fault::ComparesTheBeginningOfKeys => key[16..].fill(0),
                Fault::ComparesTheEndOfKeys => key[..16].fill(0),
                _ => {}
            }
            let (store, key) = (self.clone(), Fingerprint::from_bytes(key));
            let found = store.look(key, &ask);
            if store.fault == Fault::LooksBeforeItLeaps {
                return Box::pin(async move {
                    tokio::task::yield_now().await;
                    Ok(found.unwrap_or_else(|| store.lead(key, &ask)))
                });
            }
            let claim: Ready<_> = ready(Ok(found.unwrap_or_else(|| store.lead(key, &ask))));
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

        fn keep(self, now: Instant, window: Duration) {
            if self.has_key() || self.store.fault == Fault::KeepsWhoeverHasTheKey {
                self.expire_at(now + window);
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
        // It holds one call, and lets go of whatever it is.
        let forgetful = || Naive { fault: Fault::None, entries: Arc::default(), leases: Arc::default() };
        assert!(tokio::spawn(run_full(forgetful)).await.is_err());
    }
}
