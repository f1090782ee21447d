//! One caller cannot take the store from the others.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_buttress::store::MemoryStore;
use tower_buttress::{CallBody, DedupLayer, DedupRole, Stale, StaleKind, TimeoutProfile, presets};

use super::{dedup, role, send, text};
use crate::support::secs;

fn from(credential: &str, key: &str) -> Request<Full<Bytes>> {
    let builder = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {credential}"));
    builder.header("idempotency-key", key).body(Full::from("{}")).unwrap()
}

/// An upstream that knows all credentials but `made-up`.
async fn provider(request: Request<CallBody>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let is_known = request.headers()["authorization"] != "Bearer made-up";
    let status = if is_known { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    Ok(Response::builder().status(status).body(Full::from("{}")).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stranger_with_a_wrong_key_does_not_lock_out_others() {
    let provider = tower::service_fn(|request: Request<_>| async move {
        let is_known = request.headers()["authorization"] == "Bearer alice";
        let status = if is_known { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(Full::<Bytes>::from("{}")).unwrap())
    });
    let gateway = presets::llm_gateway(TimeoutProfile::STANDARD).layer(provider);
    // As many as the store has places, and more.
    for n in 0..70_000 {
        let response = gateway.clone().oneshot(from("made-up", &format!("k{n}"))).await.unwrap();
        assert_eq!(response.status(), 401);
        response.into_body().collect().await.unwrap();
    }
    for role in [DedupRole::Leader, DedupRole::Replayed] {
        let response = gateway.clone().oneshot(from("alice", "first")).await.unwrap();
        assert_eq!((response.status(), response.extensions().get()), (StatusCode::OK, Some(&role)));
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_fills_its_share_changes_nothing_for_another() {
    let store = MemoryStore::new(1 << 20, 80);
    let service = DedupLayer::new().store(store.clone()).layer(tower::service_fn(provider));
    let ask = async |credential: &str, key: &str| {
        let response = service.clone().oneshot(from(credential, key)).await.unwrap();
        let (ignored, role) = (response.headers().contains_key("idempotency-key-ignored"), role(&response));
        response.into_body().collect().await.unwrap();
        (role, ignored)
    };
    // Both have had a 2xx.
    assert_eq!(ask("bob", "first").await, (Some(DedupRole::Leader), false));
    let honoured = {
        let mut honoured = 0;
        for n in 0..1_000 {
            honoured += usize::from(ask("greedy", &format!("k{n}")).await.0 == Some(DedupRole::Leader));
        }
        honoured
    };
    assert_eq!(honoured, 10, "an eighth of eighty");
    assert_eq!(ask("greedy", "one-more").await, (None, true), "it passes, and its response says so");
    for n in 0..9 {
        assert_eq!(ask("bob", &format!("k{n}")).await, (Some(DedupRole::Leader), false));
        assert_eq!(ask("bob", &format!("k{n}")).await, (Some(DedupRole::Replayed), false));
    }
    // Nor for a tenant that is not known yet.
    assert_eq!(ask("carol", "k").await, (Some(DedupRole::Leader), false));
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_of_strangers_take_one_share_together() {
    let (service, mut stage) = dedup(&DedupLayer::new().store(MemoryStore::new(1 << 20, 80)));
    let known = send(&service, from("alice", "first")).await;
    stage.call().await.ok_with("hello");
    text(known.await.unwrap().unwrap()).await;
    // Each with a credential of its own.
    let mut calls = Vec::new();
    let mut hanging = Vec::new();
    for n in 0..100 {
        calls.push(send(&service, from(&format!("stranger {n}"), "k")).await);
        hanging.push(stage.call().await);
    }
    let alice = send(&service, from("alice", "second")).await;
    stage.call().await.ok_with("hello");
    assert_eq!(role(&alice.await.unwrap().unwrap()), Some(DedupRole::Leader));
    drop((calls, hanging));
}

#[tokio::test(start_paused = true)]
async fn strangers_who_fill_their_share_do_not_keep_newcomers_out() {
    let (service, mut stage) = dedup(&DedupLayer::new().store(MemoryStore::new(1 << 20, 80)));
    // Each with a credential of its own, and none has had an answer.
    let mut calls = Vec::new();
    let mut hanging = Vec::new();
    for n in 0..20 {
        calls.push(send(&service, from(&format!("stranger {n}"), "k")).await);
        hanging.push(stage.call().await);
    }
    // There is no room for the first call of one who has an account. By its answer it is known.
    let first = send(&service, from("alice", "first")).await;
    stage.call().await.ok_with("hello");
    let first = first.await.unwrap().unwrap();
    assert_eq!((role(&first), first.headers()["idempotency-key-ignored"].as_bytes()), (None, &b"store-full"[..]));
    let second = send(&service, from("alice", "second")).await;
    stage.call().await.ok_with("hello");
    assert_eq!(role(&second.await.unwrap().unwrap()), Some(DedupRole::Leader));

    // An answer that is no success, or none of the upstream's, makes no tenant known.
    let refused = || Response::builder().status(401).body(()).unwrap();
    let stale = || Response::builder().extension(Stale::new(StaleKind::Exact, secs(40))).body(()).unwrap();
    for answer in [refused(), refused(), stale(), stale()] {
        let mallory = send(&service, from("mallory", "k")).await;
        stage.call().await.answer_with(answer, "");
        assert_eq!(role(&mallory.await.unwrap().unwrap()), None);
    }
    drop((calls, hanging));
}

/// A refusal in gRPC is an answer with the status 200. With gRPC-Web it may come in the last bytes of the body.
#[tokio::test(start_paused = true)]
async fn a_grpc_refusal_makes_no_tenant_known() {
    for (content_type, status, is_known) in [
        ("application/json", None, true),
        ("application/grpc", Some("0"), true),
        ("application/grpc", Some("3"), false),
        ("application/grpc-web", Some("0"), true),
        ("application/grpc-web", Some("3"), false),
        ("application/grpc-web+proto", None, false),
    ] {
        let (service, mut stage) = dedup(&DedupLayer::new().store(MemoryStore::new(1 << 20, 80)));
        let first = send(&service, from("mallory", "first")).await;
        let head = Response::builder().header("content-type", content_type);
        let head = status.into_iter().fold(head, |head, status| head.header("grpc-status", status));
        stage.call().await.answer_with(head.body(()).unwrap(), "grpc-status: 16\r\n");
        text(first.await.unwrap().unwrap()).await;

        // Those who are not known have no room left.
        let (mut calls, mut hanging) = (Vec::new(), Vec::new());
        for n in 0..20 {
            calls.push(send(&service, from(&format!("stranger {n}"), "k")).await);
            hanging.push(stage.call().await);
        }
        let second = send(&service, from("mallory", "second")).await;
        stage.call().await.ok_with("hello");
        let role = role(&second.await.unwrap().unwrap());
        assert_eq!(role, is_known.then_some(DedupRole::Leader), "{content_type} {status:?}");
    }
}
