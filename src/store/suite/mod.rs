//! Tests an implementation of [`Store`].
//!
//! For the tests of a store: each check panics with its finding. The checks use the store's own time, and take at most
//! one or two seconds each.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! use tower_buttress::store::{MemoryStore, suite};
//!
//! suite::run(MemoryStore::default).await;
//! suite::run_full(|| MemoryStore::new(1024 * 1024, 1)).await;
//! suite::run_fair(|| MemoryStore::new(1024 * 1024, 64)).await;
//! suite::run_shared(|| {
//!     let store = MemoryStore::default();
//!     (store.clone(), store)
//! })
//! .await;
//! # }
//! ```

#![allow(clippy::panic, clippy::manual_assert, reason = "a check fails by panicking")]

mod shared;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

pub use self::shared::run_shared;
use super::{BodyPart, Claim, ClaimRequest, Head, Lease, LogReader, Recorder, ResponseLog, Retention, Store};
use crate::policy::broadcast::LogLimits;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::rt::clock;

const LIMITS: LogLimits = LogLimits { bytes: 64 * 1024, lag: Duration::from_secs(5) };
const WINDOW: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(60);

/// Runs the checks that apply to every store, each on a store made by `new`.
///
/// # Panics
///
/// If the store violates its contract.
pub async fn run<St: Store>(mut new: impl FnMut() -> St) {
    one_leads_and_the_others_follow(new()).await;
    of_those_who_claim_at_once_one_leads(new()).await;
    a_follower_reads_what_is_recorded_live(new()).await;
    a_follower_reads_an_error_when_the_call_failed(new()).await;
    another_payload_is_a_mismatch_in_flight_and_kept(new()).await;
    other_keys_are_other_calls(new()).await;
    a_lease_that_is_dropped_frees_its_key(new()).await;
    what_was_not_kept_is_not_replayed(new()).await;
    a_lease_that_is_released_frees_its_key_and_no_other(new()).await;
    what_is_kept_is_replayed_and_for_its_window_only(new()).await;
    a_failed_call_is_not_followed(new()).await;
}

/// Runs the checks of a full store: `new` makes stores with room for one call.
///
/// # Panics
///
/// If the store violates its contract.
pub async fn run_full<St: Store>(mut new: impl FnMut() -> St) {
    what_is_in_flight_is_not_forgotten_to_make_room(new()).await;
    what_is_guaranteed_is_not_forgotten_to_make_room(new()).await;
    what_is_not_guaranteed_makes_room(new()).await;
}

/// Runs the checks of one tenant's share: `new` makes stores for at most some thousand calls.
///
/// # Panics
///
/// If the store violates its contract.
pub async fn run_fair<St: Store>(mut new: impl FnMut() -> St) {
    a_tenant_that_takes_all_it_can_leaves_room_for_others(new()).await;
}

async fn one_leads_and_the_others_follow<St: Store>(store: St) {
    let (_lease, recorder) = lead(&store, request("a", "payload")).await;
    let own = recorder.log().reader();
    for _ in 0..3 {
        follow(&store, request("a", "payload")).await;
    }
    drop(own);
}

async fn of_those_who_claim_at_once_one_leads<St: Store>(store: St) {
    let claims: Vec<_> = (0..8).map(|_| tokio::spawn(store.claim(request("a", "payload")))).collect();
    let mut led = Vec::new();
    for claim in claims {
        match claim.await {
            Ok(Ok(Claim::Lead { lease, recorder })) => led.push((recorder.log().reader(), lease, recorder)),
            Ok(Ok(Claim::Follow(_))) => {}
            Ok(other) => panic!("a call that is in flight must be followed; the claim was answered {}", name(&other)),
            Err(why) => panic!("a claim does not end: {why}"),
        }
    }
    assert_eq!(led.len(), 1, "of the claims that are made at once one must lead");
}

async fn a_follower_reads_what_is_recorded_live<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, request("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    recorder.part(BodyPart::Data(Bytes::from_static(b"one")));
    let mut reader = listen(&follow(&store, request("a", "payload")).await);
    recorder.part(BodyPart::Data(Bytes::from_static(b"two")));
    recorder.part(BodyPart::Trailers(Arc::new(headers("x-checksum"))));
    recorder.finish();
    assert_eq!(read(&mut reader).await, "onetwo", "a follower must read the answer from its first part on");
    drop((lease, own));
}

async fn a_follower_reads_an_error_when_the_call_failed<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, request("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    recorder.part(BodyPart::Data(Bytes::from_static(b"one")));
    let mut reader = listen(&follow(&store, request("a", "payload")).await);
    recorder.fail("the connection was lost");
    let part = poll_fn(|cx| reader.poll_part(cx)).await;
    assert!(matches!(part, Some(Ok(BodyPart::Data(data))) if data == "one"), "what came before a failure must be read");
    let part = poll_fn(|cx| reader.poll_part(cx)).await;
    assert!(matches!(part, Some(Err(_))), "a call that failed must not look complete");
    drop((lease, own));
}

async fn another_payload_is_a_mismatch_in_flight_and_kept<St: Store>(store: St) {
    let first = request("a", "payload");
    let others = || nearly(first.payload).into_iter().chain([print("another")]);
    let (lease, recorder) = lead(&store, first).await;
    let own = recorder.log().reader();
    for payload in others() {
        let in_flight = store.claim(ClaimRequest { payload, ..first }).await;
        assert!(matches!(in_flight, Ok(Claim::Mismatch)), "in flight, another payload must be a mismatch");
    }
    complete(lease, recorder, LONG, false);
    for payload in others() {
        let kept = store.claim(ClaimRequest { payload, ..first }).await;
        assert!(matches!(kept, Ok(Claim::Mismatch)), "kept, another payload must be a mismatch");
    }
    drop(own);
}

async fn other_keys_are_other_calls<St: Store>(store: St) {
    let first = request("a", "payload");
    let (lease, recorder) = lead(&store, first).await;
    let own = recorder.log().reader();
    let mut others = Vec::new();
    for key in nearly(first.key).into_iter().chain([print("b")]) {
        others.push(lead(&store, ClaimRequest { key, ..first }).await);
    }
    complete(lease, recorder, LONG, false);
    drop((own, others));
}

async fn a_lease_that_is_dropped_frees_its_key<St: Store>(store: St) {
    drop(lead(&store, request("a", "payload")).await);
    // With another payload: nothing of the first request is left.
    drop(lead(&store, request("a", "another")).await);
}

async fn what_was_not_kept_is_not_replayed<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, request("a", "payload")).await;
    recorder.head(head());
    drop(lease);
    // The answer is complete, for its readers.
    recorder.finish();
    drop(lead(&store, request("a", "payload")).await);
}

async fn a_lease_that_is_released_frees_its_key_and_no_other<St: Store>(store: St) {
    let (mut first, recorder) = lead(&store, request("a", "payload")).await;
    let own = recorder.log().reader();
    first.release();
    let (second, second_recorder) = lead(&store, request("a", "payload")).await;
    let second_own = second_recorder.log().reader();
    // The key belongs to another lease by now.
    first.resize(100);
    first.accepted();
    first.release();
    first.keep(retention(LONG, false));
    drop((recorder, own));
    follow(&store, request("a", "payload")).await;
    drop((second, second_recorder, second_own));
}

async fn what_is_kept_is_replayed_and_for_its_window_only<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, request("a", "payload")).await;
    complete(lease, recorder, WINDOW, false);
    for _ in 0..2 {
        let mut reader = listen(&replay(&store, request("a", "payload")).await);
        assert_eq!(read(&mut reader).await, "answer");
    }
    tokio::time::sleep(WINDOW * 2).await;
    drop(lead(&store, request("a", "payload")).await);
}

async fn a_failed_call_is_not_followed<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, request("a", "payload")).await;
    recorder.fail("the connection was lost");
    drop(lead(&store, request("a", "payload")).await);
    drop(lease);
}

async fn what_is_in_flight_is_not_forgotten_to_make_room<St: Store>(store: St) {
    let (_lease, recorder) = lead(&store, request("a", "payload")).await;
    let own = recorder.log().reader();
    full(&store, request("b", "payload")).await;
    follow(&store, request("a", "payload")).await;
    drop(own);
}

async fn what_is_guaranteed_is_not_forgotten_to_make_room<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, request("a", "payload")).await;
    complete(lease, recorder, WINDOW, true);
    full(&store, request("b", "payload")).await;
    replay(&store, request("a", "payload")).await;
    tokio::time::sleep(WINDOW * 2).await;
    drop(lead(&store, request("b", "payload")).await);
}

async fn what_is_not_guaranteed_makes_room<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, request("a", "payload")).await;
    complete(lease, recorder, LONG, false);
    drop(lead(&store, request("b", "payload")).await);
}

async fn a_tenant_that_takes_all_it_can_leaves_room_for_others<St: Store>(store: St) {
    let of = |tenant: &str, key: &str| ClaimRequest { tenant: print(tenant), ..request(key, "payload") };
    // The upstream knows both tenants.
    for tenant in ["greedy", "modest"] {
        let (lease, recorder) = lead(&store, of(tenant, tenant)).await;
        complete(lease, recorder, WINDOW, false);
    }
    for call in 0..10_000 {
        match store.claim(of("greedy", &call.to_string())).await {
            Ok(Claim::Lead { lease, recorder }) => complete(lease, recorder, LONG, true),
            Ok(Claim::Full { .. }) => break,
            other => panic!("a new key must lead or find no room; the claim was answered {}", name(&other)),
        }
    }
    let (lease, recorder) = lead(&store, of("modest", "a")).await;
    complete(lease, recorder, LONG, true);
    replay(&store, of("modest", "a")).await;
    // A stranger has not lost its share to another tenant either.
    drop(lead(&store, of("stranger", "b")).await);
}

// === what a check is made of ===

fn request(key: &str, payload: &str) -> ClaimRequest {
    ClaimRequest {
        key: print(key),
        payload: print(payload),
        tenant: print("tenant"),
        owner: None,
        has_client_key: true,
        now: clock::now(),
        limits: LIMITS,
    }
}

fn print(text: &str) -> Fingerprint {
    let mut print = Fingerprinter::new("store suite");
    print.field(text.as_bytes());
    print.finish(0)
}

fn retention(window: Duration, guaranteed: bool) -> Retention {
    Retention { now: clock::now(), window, guaranteed }
}

async fn lead<St: Store>(store: &St, request: ClaimRequest) -> (St::Lease, Recorder) {
    match store.claim(request).await {
        Ok(Claim::Lead { lease, recorder }) => (lease, recorder),
        other => panic!("a claim of a free key must lead; it was answered {}", name(&other)),
    }
}

async fn follow<St: Store>(store: &St, request: ClaimRequest) -> ResponseLog {
    match store.claim(request).await {
        Ok(Claim::Follow(log)) => log,
        other => panic!("a call that is in flight must be followed; the claim was answered {}", name(&other)),
    }
}

async fn replay<St: Store>(store: &St, request: ClaimRequest) -> ResponseLog {
    match store.claim(request).await {
        Ok(Claim::Replay(log)) => log,
        other => panic!("an answer that is kept must be replayed; the claim was answered {}", name(&other)),
    }
}

async fn full<St: Store>(store: &St, request: ClaimRequest) {
    let claim = store.claim(request).await;
    assert!(matches!(claim, Ok(Claim::Full { .. })), "there is no room; the claim was answered {}", name(&claim));
}

/// Returns the fingerprints that differ from `print` in their first bit, or in their last.
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

fn complete(mut lease: impl Lease, mut recorder: Recorder, window: Duration, guaranteed: bool) {
    recorder.head(head());
    lease.accepted();
    recorder.part(BodyPart::Data(Bytes::from_static(b"answer")));
    recorder.part(BodyPart::Trailers(Arc::new(headers("x-checksum"))));
    assert!(lease.resize(100), "there must be room for a hundred bytes");
    lease.keep(retention(window, guaranteed));
    recorder.finish();
}

fn listen(log: &ResponseLog) -> LogReader {
    log.reader().unwrap_or_else(|| panic!("a log that is followed or replayed must be readable from its beginning"))
}

async fn read(reader: &mut LogReader) -> String {
    let head = poll_fn(|cx| reader.poll_head(cx)).await;
    let is_same = |head: &Head| head.status() == StatusCode::OK && *head.headers() == headers("x-model");
    assert!(head.is_ok_and(|head| is_same(&head)), "the head must be the leader's");
    let (mut text, mut trailers) = (Vec::new(), None);
    while let Some(part) = poll_fn(|cx| reader.poll_part(cx)).await {
        match part {
            Ok(BodyPart::Data(data)) => text.extend_from_slice(&data),
            Ok(BodyPart::Trailers(last)) => trailers = Some(last),
            Err(why) => panic!("the call failed: {why}"),
        }
    }
    assert!(trailers.is_some_and(|last| *last == headers("x-checksum")), "the trailers must be the leader's");
    String::from_utf8_lossy(&text).into_owned()
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
