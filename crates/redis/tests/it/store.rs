//! The store holds to its contract, on a real Redis and in memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::store::{Fingerprint, suite};
use tower_buttress::{CallBody, DedupLayer};
use tower_buttress_redis::backend::{
    Appended, Backend, ClaimArgs, Claimed, Flight, FlightEnd, LogShare, Process, STRANGERS, Settled, Token,
};
use tower_buttress_redis::{Redis, RedisModel, RedisStore};

use crate::support::Server;

#[tokio::test]
async fn it_holds_to_the_contract_on_a_real_redis() {
    let server = Server::start();
    let fresh = || server.fresh();
    suite::run(|| RedisStore::new(Redis::new(fresh()).unwrap())).await;
    suite::run_shared(|| {
        let options = fresh();
        let store = || RedisStore::new(Redis::new(options.clone()).unwrap());
        (store(), store())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_holds_to_the_contract_in_memory() {
    suite::run(|| RedisStore::new(RedisModel::new())).await;
    suite::run_fair(|| {
        RedisStore::new(RedisModel::new()).memory(tower_buttress::store::MemoryStore::new(1024 * 1024, 64))
    })
    .await;
    suite::run_shared(|| {
        let model = RedisModel::new();
        (RedisStore::new(model.clone()), RedisStore::new(model))
    })
    .await;
}

/// Calls that no other process asks for cost a claim and a settlement.
#[tokio::test(start_paused = true)]
async fn two_stores_that_share_nothing_are_two() {
    let apart = || (RedisStore::new(RedisModel::new()), RedisStore::new(RedisModel::new()));
    assert!(tokio::spawn(suite::run_shared(apart)).await.is_err());
}

/// The head is longer than what a claim reads at once.
#[tokio::test(start_paused = true)]
async fn an_answer_with_a_long_head_is_replayed_again_and_again() {
    let head = 300_000;
    let (model, calls) = (RedisModel::new(), Arc::new(AtomicUsize::new(0)));
    let ask = async || {
        let calls = calls.clone();
        let upstream = service_fn(move |_: Request<CallBody>| {
            calls.fetch_add(1, SeqCst);
            async move {
                let answer = Response::builder().header("content-length", 5).header("x-long", "h".repeat(head));
                Ok::<_, Infallible>(answer.body(Full::<Bytes>::from("hello")).unwrap())
            }
        });
        // Each time another process.
        let service = DedupLayer::new().store(RedisStore::new(model.clone())).layer(upstream);
        let request = Request::post("http://upstream/").header("authorization", "a").header("idempotency-key", "k");
        let answer = service.oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["x-long"].len(), head);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for _ in 0..4 {
        ask().await;
    }
    assert_eq!(calls.load(SeqCst), 1);
}

/// A 400 is kept, too.
#[tokio::test(start_paused = true)]
async fn answers_to_callers_who_invent_credentials_take_the_share_of_one_tenant() {
    let (model, calls) = (RedisModel::new(), Arc::new(AtomicUsize::new(0)));
    // Each time another process.
    let ask = async |credential: String| {
        let calls = calls.clone();
        let upstream = service_fn(move |request: Request<CallBody>| {
            calls.fetch_add(1, SeqCst);
            let is_known = request.headers()["authorization"] == "known";
            let answer = Response::builder().status(if is_known { 200 } else { 400 }).header("content-length", 5);
            async move { Ok::<_, Infallible>(answer.body(Full::<Bytes>::from("hello")).unwrap()) }
        });
        let store = RedisStore::new(model.clone()).tenant_bytes(2_000);
        let service = DedupLayer::new().store(store).layer(upstream);
        let request = Request::post("http://upstream/").header("authorization", credential);
        let request = request.header("idempotency-key", "k").body(Full::<Bytes>::default()).unwrap();
        service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for times in 0..2 {
        for number in 0..9 {
            ask(format!("invented {number}")).await;
        }
        assert_eq!(calls.swap(0, SeqCst), [9, 9 - 3][times], "three of them are kept for all processes");
    }
    for times in 0..2 {
        ask("known".into()).await;
        assert_eq!(calls.swap(0, SeqCst), 1 - times, "it is nothing to a tenant that was served");
    }
}

/// The upstream answered the call with a success after a part of its answer was shared.
async fn a_kept_answer_leaves_the_room_of_strangers<B: Backend>(backend: B) {
    let (tenant, payload) = (Fingerprint::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32]));
    let second = Duration::from_secs(1);
    let claim = async |key: u8| {
        let (key, token) = (Fingerprint::from_bytes([key; 32]), Token::random());
        let owner = Process::random();
        assert_eq!(
            backend.claim(ClaimArgs { key, payload, token, owner, lease: 10 * second }).await,
            Ok(Claimed::Lead)
        );
        Flight { key, token }
    };
    let share = |tenant| LogShare { tenant, bytes: 10 };
    let is_written = |appended| matches!(appended, Ok(Appended::Written { .. }));
    let (one, two) = (claim(1).await, claim(2).await);
    let append = async |flight, tenant, offset, bytes| {
        is_written(backend.append(flight, offset, Bytes::from_static(bytes), 30 * second, share(tenant)).await)
    };
    assert!(append(one, STRANGERS, 0, b"12345").await);
    assert!(append(one, tenant, 5, b"6789").await);
    assert!(!append(two, STRANGERS, 0, b"123456").await, "there is no room yet");
    let keep = FlightEnd::Keep { window: 60 * second, length: 9, tenant, tenant_bytes: 10_000, owner: None };
    assert_eq!(backend.settle(one, keep).await, Ok(Settled::Done));
    assert!(append(two, STRANGERS, 0, b"123456").await);
}

#[tokio::test]
async fn a_kept_answer_leaves_the_room_of_strangers_in_the_model_as_in_redis() {
    a_kept_answer_leaves_the_room_of_strangers(RedisModel::new()).await;
    let server = Server::start();
    a_kept_answer_leaves_the_room_of_strangers(Redis::new(server.fresh()).unwrap()).await;
}
