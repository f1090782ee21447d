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
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};

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
    a_follower_hears_what_is_said_live(new()).await;
    another_payload_is_a_mismatch_in_flight_and_kept(new()).await;
    other_keys_are_other_calls(new()).await;
    a_lease_that_is_dropped_frees_its_key(new()).await;
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

async fn a_follower_hears_what_is_said_live<St: Store>(store: St) {
    let (lease, mut recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    recorder.part(Part::Data(Bytes::from_static(b"one")));
    let mut reader = listen(&follow(&store, ask("a", "payload")).await);
    recorder.part(Part::Data(Bytes::from_static(b"two")));
    recorder.finish();
    assert_eq!(hear(&mut reader).await, "onetwo", "a follower hears it from the first part on");
    drop((lease, own));
}

async fn another_payload_is_a_mismatch_in_flight_and_kept<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    let in_flight = store.claim(ask("a", "another")).await;
    assert!(matches!(in_flight, Ok(Claim::Mismatch)), "in flight, another payload is a mismatch");
    complete(lease, recorder, LONG);
    let kept = store.claim(ask("a", "another")).await;
    assert!(matches!(kept, Ok(Claim::Mismatch)), "kept, another payload is a mismatch");
    drop(own);
}

async fn other_keys_are_other_calls<St: Store>(store: St) {
    let (lease, recorder) = lead(&store, ask("a", "payload")).await;
    let own = recorder.log().reader();
    let other = lead(&store, ask("b", "payload")).await;
    complete(lease, recorder, LONG);
    drop((own, other));
}

async fn a_lease_that_is_dropped_frees_its_key<St: Store>(store: St) {
    drop(lead(&store, ask("a", "payload")).await);
    // With another payload: nothing of the first is left.
    drop(lead(&store, ask("a", "another")).await);
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
    drop((first, recorder, own));
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
    let promised = |key| Ask { promised: true, ..ask(key, "payload") };
    let (lease, recorder) = lead(&store, promised("a")).await;
    complete(lease, recorder, WINDOW);
    full(&store, promised("b")).await;
    let again = store.claim(promised("a")).await;
    assert!(matches!(again, Ok(Claim::Replay(_))), "what was promised is replayed, and not {}", name(&again));
    tokio::time::sleep(WINDOW * 2).await;
    drop(lead(&store, promised("b")).await);
}

// === what a check is made of ===

fn ask(key: &str, payload: &str) -> Ask {
    Ask { key: print(key), payload: print(payload), promised: false, now: clock::now(), limits: LIMITS }
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

fn head() -> Head {
    Head::new(StatusCode::OK, Version::HTTP_11, HeaderMap::new(), clock::now())
}

fn complete(mut lease: impl Lease, mut recorder: Recorder, window: Duration) {
    recorder.head(head());
    recorder.part(Part::Data(Bytes::from_static(b"answer")));
    assert!(lease.resize(100), "there is room for a hundred bytes");
    lease.keep(clock::now(), window);
    recorder.finish();
}

fn listen(log: &Log) -> Reader {
    log.reader().unwrap_or_else(|| panic!("a log that is followed or replayed can be heard"))
}

async fn hear(reader: &mut Reader) -> String {
    let head = poll_fn(|cx| reader.poll_head(cx)).await;
    assert!(head.is_ok_and(|head| head.status() == StatusCode::OK), "the head is the leader's");
    let mut heard = Vec::new();
    while let Some(part) = poll_fn(|cx| reader.poll_part(cx)).await {
        match part {
            Ok(Part::Data(data)) => heard.extend_from_slice(&data),
            Ok(Part::Trailers(_)) => {}
            Err(why) => panic!("the call broke off: {why}"),
        }
    }
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
