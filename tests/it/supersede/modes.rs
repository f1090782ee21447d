use tokio::time::Instant;
use tower_buttress::SupersedeMode;

use super::*;

#[tokio::test(start_paused = true)]
async fn five_messages_that_settle_are_one_call() {
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer().settle(300 * MILLIS), &upstream);
    let start = Instant::now();
    let mut calls = Vec::new();
    for text in ["h", "he", "hel", "hell", "hello"] {
        calls.push(callers.say(text).await);
        tokio::time::sleep(100 * MILLIS).await;
    }
    assert_eq!(callers.layer.stats().waiting, 1);
    let last = calls.pop().unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap(), SUPERSEDED);
    }
    assert_eq!(start.elapsed(), 505 * MILLIS, "they were told at once");
    assert_eq!(last.await.unwrap(), ANSWERED);
    assert_eq!(start.elapsed(), (404 + 300 + 1000) * MILLIS);
    assert_eq!(upstream.calls(), ["hello"]);
    assert_eq!(callers.layer.stats().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_message_can_be_refused() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer().mode(SupersedeMode::Reject).observer(log.clone()), &upstream);
    let first = callers.say("one").await;
    assert_eq!(callers.say("two").await.await.unwrap(), BUSY);
    let again = callers.say("one").await;
    assert_eq!((first.await.unwrap(), again.await.unwrap()), (ANSWERED, ANSWERED));
    assert_eq!(callers.say("two").await.await.unwrap(), ANSWERED);
    assert_eq!(log.names(), ["refused: conversation-busy"]);
}

/// The mode that a caller's own request names.
fn queued(text: &str) -> Request<Full<Bytes>> {
    let mut request = message(text);
    request.extensions_mut().insert(SupersedeMode::enqueue(2));
    request
}

#[tokio::test(start_paused = true)]
async fn newer_messages_can_wait_for_those_before_them() {
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer(), &upstream);
    let start = Instant::now();
    let mut calls = Vec::new();
    for text in ["one", "fail", "three"] {
        calls.push(callers.send(queued(text)).await);
    }
    assert_eq!(callers.layer.stats().waiting, 2);
    assert_eq!(callers.send(queued("four")).await.await.unwrap(), BUSY);
    let statuses =
        [calls.remove(0).await.unwrap().0, calls.remove(0).await.unwrap().0, calls.remove(0).await.unwrap().0];
    assert_eq!(statuses, [200, 500, 200]);
    assert_eq!(upstream.calls(), ["one", "fail", "three"]);
    assert_eq!(start.elapsed(), secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_that_leaves_holds_up_no_other() {
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer(), &upstream);
    let first = callers.send(queued("one")).await;
    let second = callers.send(queued("two")).await;
    let third = callers.send(queued("three")).await;
    second.abort();
    first.abort();
    assert_eq!(third.await.unwrap(), ANSWERED);
    assert_eq!(upstream.calls(), ["one", "three"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_can_be_superseded() {
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer(), &upstream);
    let first = callers.send(queued("one")).await;
    let second = callers.send(queued("two")).await;
    let third = callers.say("three").await;
    assert_eq!((first.await.unwrap(), second.await.unwrap(), third.await.unwrap()), (SUPERSEDED, SUPERSEDED, ANSWERED));
    assert_eq!(upstream.calls(), ["one", "three"], "what had to wait costs no call");
}
