//! What two stores over one backend must hold to: the stores of two processes.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{LONG, WINDOW, complete, follow, head, headers, lead, listen, read, replay, request};
use crate::rt::clock;
use crate::store::{BodyPart, Claim, ClaimRequest, Lease, Store};

/// Runs the checks of what two processes share: `new` makes two stores over one backend, which is empty.
///
/// # Panics
///
/// When a store does not hold to its contract.
pub async fn run_shared<St: Store>(mut new: impl FnMut() -> (St, St)) {
    a_follower_elsewhere_reads_it_live_from_the_first_part_on(new()).await;
    a_follower_elsewhere_reads_an_error_when_the_call_failed(new()).await;
    an_answer_is_replayed_elsewhere_with_its_age(new()).await;
    another_payload_is_a_mismatch_elsewhere(new()).await;
    a_key_that_is_released_here_is_free_elsewhere(new()).await;
    a_follower_elsewhere_keeps_the_call_from_being_abandoned(new()).await;
}

async fn a_follower_elsewhere_reads_it_live_from_the_first_part_on<St: Store>((here, there): (St, St)) {
    let (lease, mut recorder) = lead(&here, request("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    recorder.part(BodyPart::Data(Bytes::from_static(b"one")));
    let mut reader = listen(&follow(&there, request("a", "payload")).await);
    let first = poll_fn(|cx| reader.poll_part(cx)).await;
    assert!(
        matches!(first, Some(Ok(BodyPart::Data(data))) if data == "one"),
        "a part must be read before the next comes"
    );
    let mut late = listen(&follow(&there, request("a", "payload")).await);
    recorder.part(BodyPart::Data(Bytes::from_static(b"two")));
    recorder.part(BodyPart::Trailers(Arc::new(headers("x-checksum"))));
    recorder.finish();
    drop(lease);
    assert_eq!(read(&mut reader).await, "two");
    assert_eq!(read(&mut late).await, "onetwo", "a late follower must read the answer from its first part on");
    drop(own);
}

async fn a_follower_elsewhere_reads_an_error_when_the_call_failed<St: Store>((here, there): (St, St)) {
    let (lease, mut recorder) = lead(&here, request("a", "payload")).await;
    let own = recorder.log().reader();
    recorder.head(head());
    let mut reader = listen(&follow(&there, request("a", "payload")).await);
    recorder.fail("the connection was lost");
    drop(lease);
    let part = poll_fn(|cx| reader.poll_part(cx)).await;
    assert!(matches!(part, Some(Err(_))), "a call that failed must not look complete");
    drop(lead(&there, request("a", "payload")).await);
    drop(own);
}

async fn an_answer_is_replayed_elsewhere_with_its_age<St: Store>((here, there): (St, St)) {
    let (lease, recorder) = lead(&here, request("a", "payload")).await;
    complete(lease, recorder, LONG, true);
    tokio::time::sleep(WINDOW).await;
    let mut reader = listen(&replay(&there, request("a", "payload")).await);
    let head = poll_fn(|cx| reader.poll_head(cx)).await;
    let age = head.map_or(Duration::ZERO, |head| head.age(clock::now()));
    assert!(age >= WINDOW, "an answer that is replayed elsewhere must be as old as it is here, and is {age:?} old");
    assert_eq!(read(&mut reader).await, "answer");
}

async fn another_payload_is_a_mismatch_elsewhere<St: Store>((here, there): (St, St)) {
    let another = || there.claim(request("a", "another"));
    let (lease, recorder) = lead(&here, request("a", "payload")).await;
    let own = recorder.log().reader();
    assert!(matches!(another().await, Ok(Claim::Mismatch)), "in flight, another payload must be a mismatch");
    complete(lease, recorder, LONG, true);
    assert!(matches!(another().await, Ok(Claim::Mismatch)), "kept, another payload must be a mismatch");
    drop(own);
}

async fn a_key_that_is_released_here_is_free_elsewhere<St: Store>((here, there): (St, St)) {
    let (mut lease, recorder) = lead(&here, request("a", "payload")).await;
    let own = recorder.log().reader();
    lease.release();
    // A lease returns at once: what it says to the backend takes a moment.
    let mut waited = Duration::ZERO;
    while !matches!(
        there.claim(ClaimRequest { now: clock::now(), ..request("a", "payload") }).await,
        Ok(Claim::Lead { .. })
    ) {
        assert!(waited < Duration::from_secs(2), "a key that is released here must be free elsewhere");
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += Duration::from_millis(10);
    }
    drop((lease, recorder, own));
}

async fn a_follower_elsewhere_keeps_the_call_from_being_abandoned<St: Store>((here, there): (St, St)) {
    let (lease, recorder) = lead(&here, request("a", "payload")).await;
    let log = recorder.log();
    let own = log.reader();
    let reader = listen(&follow(&there, request("a", "payload")).await);
    drop(own);
    let mut waited = Duration::ZERO;
    while log.listeners() == 0 {
        assert!(waited < Duration::from_secs(2), "a caller who follows elsewhere must count as a listener here");
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += Duration::from_millis(10);
    }
    drop((reader, lease, recorder));
}
