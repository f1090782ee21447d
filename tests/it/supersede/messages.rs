use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body::Frame;
use http_body_util::StreamBody;
use tower_buttress::proto::grpc;
use tower_buttress::{PeerMessage, SupersedeMode, SupersedePeers};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_newest_message_is_answered_and_the_older_one_is_not_tried_again() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer(), &upstream);
    let first = callers.say("one").await;
    upstream.alive.is(1).await;
    let second = callers.say("two").await;
    assert_eq!(first.await.unwrap(), SUPERSEDED);
    upstream.alive.is(1).await;
    assert_eq!(second.await.unwrap(), ANSWERED);
    assert_eq!(callers.layer.stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_that_clients_are_not_to_try_again() {
    let callers = Callers::new(layer(), &Upstream::that_takes(secs(20)));
    let upstream = callers.upstream.clone();
    let service = layer().layer(service_fn(move |request| upstream.clone().answer(request)));
    let first = tokio::spawn(service.clone().oneshot(message("one")));
    tokio::task::yield_now().await;
    let second = tokio::spawn(service.clone().oneshot(message("two")));
    let refused = first.await.unwrap().unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["x-should-retry"]), (410, &"false".parse().unwrap()));
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("\"kind\":\"superseded\""));
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_tries_again_supersedes_nothing() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer(), &upstream);
    let first = callers.say("one").await;
    let again = callers.say("one").await;
    assert_eq!((first.await.unwrap(), again.await.unwrap()), (ANSWERED, ANSWERED));

    let first = callers.say("two").await;
    let second = callers.say("three").await;
    let again = callers.say("two").await;
    assert_eq!((first.await.unwrap(), again.await.unwrap()), (SUPERSEDED, SUPERSEDED));
    assert_eq!(second.await.unwrap(), ANSWERED);
    assert_eq!(upstream.calls(), ["one", "one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_of_a_message_that_failed_does_not_end_the_newer_one() {
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer(), &upstream);
    assert_eq!(callers.say("fail").await.await.unwrap(), (500, None));
    let second = callers.say("two").await;
    assert_eq!(callers.say("fail").await.await.unwrap(), SUPERSEDED);
    assert_eq!(second.await.unwrap(), ANSWERED);
}

#[tokio::test(start_paused = true)]
async fn another_idempotency_key_makes_another_message_of_the_same_words() {
    let upstream = Upstream::that_takes(secs(1));
    let callers = Callers::new(layer(), &upstream);
    let keyed = |key: &str| {
        let mut request = message("one");
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        request
    };
    let first = callers.send(keyed("a")).await;
    let again = callers.send(keyed("a")).await;
    let second = callers.send(keyed("b")).await;
    assert_eq!((first.await.unwrap(), again.await.unwrap()), (SUPERSEDED, SUPERSEDED));
    assert_eq!(second.await.unwrap(), ANSWERED);
}

#[tokio::test(start_paused = true)]
async fn another_tenant_or_conversation_is_untouched() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer(), &upstream);
    let mut calls = vec![callers.say("one").await, callers.send(message_of("other", "two")).await];
    let mut elsewhere = message("three");
    elsewhere.headers_mut().insert(HEADER, "8".parse().unwrap());
    calls.push(callers.send(elsewhere).await);
    for key in ["Bearer a", "Bearer b"] {
        let mut request = message("four");
        request.extensions_mut().clear();
        request.headers_mut().insert("authorization", key.parse().unwrap());
        calls.push(callers.send(request).await);
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), ANSWERED);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_passes() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer().observer(log.clone()), &upstream);
    let mut calls = vec![callers.say("one").await];
    let mut without_conversation = message("two");
    without_conversation.headers_mut().remove(HEADER);
    let mut read = message("three");
    *read.method_mut() = http::Method::GET;
    let mut grpc = message("four");
    grpc.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let mut without_tenant = message("five");
    without_tenant.extensions_mut().clear();
    let mut off = message("six");
    off.extensions_mut().insert(SupersedeMode::Off);
    for request in [without_conversation, read, grpc, without_tenant, off] {
        calls.push(callers.send(request).await);
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), ANSWERED);
    }
    assert_eq!(log.names(), ["bypassed: supersede"]);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_off_passes_everything() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(SupersedeLayer::disabled(), &upstream);
    let (first, second) = (callers.say("one").await, callers.say("two").await);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (ANSWERED, ANSWERED));
}

/// A message whose body comes in two parts, this long apart.
fn slow(text: &'static str, takes: Duration) -> Request<CallBody> {
    let parts = futures_util::stream::unfold(0, move |part| async move {
        match part {
            0 => Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"slow "))), 1)),
            1 => {
                tokio::time::sleep(takes).await;
                Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), 2))
            }
            _ => None,
        }
    });
    message("").map(|_| CallBody::new(StreamBody::new(Box::pin(parts))))
}

#[tokio::test(start_paused = true)]
async fn a_message_that_began_earlier_and_is_complete_later_is_the_older_one() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer(), &upstream);
    let service = callers.layer.layer(service_fn({
        let upstream = upstream.clone();
        move |request| upstream.clone().answer(request)
    }));
    let first = tokio::spawn(service.clone().oneshot(slow("one", secs(5))));
    tokio::time::sleep(MILLIS).await;
    let second = callers.say("two").await;
    assert_eq!(became(&first.await.unwrap().unwrap()), SUPERSEDED);
    assert_eq!(second.await.unwrap(), ANSWERED);
    assert_eq!(upstream.calls(), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_first_passes_unrecognised() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer().max_body(100).read_timeout(secs(2)).observer(log.clone()), &upstream);
    let first = callers.say("one").await;
    let service = callers.layer.layer(service_fn({
        let upstream = upstream.clone();
        move |request| upstream.clone().answer(request)
    }));
    assert_eq!(became(&service.oneshot(slow("two", secs(5))).await.unwrap()), ANSWERED);
    let long = callers.say(&"x".repeat(101)).await;
    assert_eq!((first.await.unwrap(), long.await.unwrap()), (ANSWERED, ANSWERED));
    assert_eq!(upstream.calls()[1], "slow two", "all of it");
    assert_eq!(log.names(), ["bypassed: supersede", "bypassed: supersede"]);
}

#[tokio::test(start_paused = true)]
async fn a_handle_ends_what_is_under_way() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer(), &upstream);
    let handle = callers.layer.handle();
    let first = callers.say("one").await;
    assert_eq!(handle.cancel_conversation(&Tenant::new("other"), "7"), 0);
    assert_eq!(handle.cancel_conversation(&Tenant::new("acme"), "7"), 1);
    assert_eq!(first.await.unwrap(), SUPERSEDED);
    upstream.alive.is(0).await;
    assert_eq!(callers.say("one").await.await.unwrap(), SUPERSEDED, "its client tries again");

    let second = callers.say("two").await;
    let (parts, _) = message("").into_parts();
    assert_eq!((handle.cancel(&parts), second.await.unwrap()), (1, SUPERSEDED));
    assert_eq!(handle.stats(), callers.layer.stats());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_leaves_its_conversation() {
    let upstream = Upstream::that_takes(secs(20));
    let callers = Callers::new(layer(), &upstream);
    let first = callers.say("one").await;
    assert_eq!((callers.layer.stats().in_flight, callers.layer.stats().conversations), (1, 1));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    upstream.alive.is(0).await;
    assert_eq!((callers.layer.stats().in_flight, callers.layer.stats().conversations), (0, 1));
    assert_eq!(callers.say("two").await.await.unwrap(), ANSWERED);
    assert_eq!(callers.say("three").await.await.unwrap(), ANSWERED);
}

#[tokio::test(start_paused = true)]
async fn conversations_that_were_answered_are_forgotten() {
    let callers = Callers::new(layer(), &Upstream::default());
    for conversation in 0..100 {
        let mut request = message("one");
        request.headers_mut().insert(HEADER, conversation.into());
        assert_eq!(callers.send(request).await.await.unwrap(), ANSWERED);
    }
    assert_eq!(callers.layer.stats().conversations, 0);
}

/// Strangers push out what is remembered of each other, and not of one that was served, though it has not read its answer.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_a_caller_that_was_served_is_on_its_own_account() {
    let upstream = Upstream::default();
    let callers = Callers::new(layer().max_remembered(128), &upstream);
    let service = callers.layer.layer(service_fn(move |request| upstream.clone().answer(request)));
    let unread = service.oneshot(message("one")).await.unwrap();
    assert_eq!(callers.say("fail").await.await.unwrap(), (500, None));
    for stranger in 0..1_000 {
        let call = callers.send(message_of(&format!("stranger {stranger}"), "fail")).await;
        assert_eq!(call.await.unwrap(), (500, None));
    }
    assert_eq!(callers.say("one").await.await.unwrap(), SUPERSEDED);
    drop(unread);
}

/// Whether the tenant of each ended message is known not to be invented.
#[derive(Default)]
struct Served(std::sync::Mutex<Vec<bool>>);

impl SupersedePeers for Served {
    fn on_message(&self, _: PeerMessage) {}

    fn on_end(&self, message: PeerMessage, _is_answered: bool) {
        self.0.lock().unwrap().push(message.is_served());
    }
}

/// gRPC refuses a credential with a 200.
#[tokio::test]
async fn a_grpc_call_is_served_only_once_its_status_is_ok() {
    const GRPC: &str = "application/grpc";
    for (content_type, at_head, at_end, is_served) in [
        ("application/json", None, None, true),
        (GRPC, Some("0"), None, true),
        (GRPC, Some("16"), None, false),
        ("text/plain", Some("16"), None, false),
        (GRPC, None, Some("0"), true),
        (GRPC, None, Some("16"), false),
        (GRPC, None, None, false),
        ("application/grpc-web+proto", None, None, false),
    ] {
        let peers = Arc::new(Served::default());
        let service = layer().share(peers.clone()).layer(service_fn(move |_: Request<CallBody>| async move {
            let status = |code: &'static str| HeaderMap::from_iter([(grpc::GRPC_STATUS, code.parse().unwrap())]);
            let trailers = at_end.map(|code| Ok(status(code)));
            let mut response = Response::new(Full::from("hi").with_trailers(std::future::ready(trailers)));
            response.headers_mut().extend(at_head.map(status).into_iter().flatten());
            response.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
            Ok::<_, Infallible>(response)
        }));
        let mut stranger = message("one");
        stranger.extensions_mut().remove::<Tenant>();
        stranger.headers_mut().insert(AUTHORIZATION, "Bearer invented".parse().unwrap());
        let response = service.oneshot(stranger).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(*peers.0.lock().unwrap(), [is_served], "{content_type} {at_head:?} {at_end:?}");
    }
}
