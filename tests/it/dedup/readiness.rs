//! What the inner service has to give is not held by a request that does not need it, or not yet.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, advance, timeout};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, DedupLayer, DedupRole, Memory};

use super::{echo, post, post_key, role, settle};
use crate::support::{Log, secs};

type Body = BoxBody<Bytes, BoxError>;

fn request(body: Body, credential: &'static str) -> Request<Body> {
    Request::post("/").header("authorization", credential).body(body).unwrap()
}

fn whole(text: &'static str) -> Body {
    Full::<Bytes>::from(text).map_err(|never| match never {}).boxed()
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_still_sending_its_request_holds_no_place() {
    let upstream = tower::service_fn(|request: Request<CallBody>| async move {
        request.into_body().collect().await?;
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("ok")))
    });
    let service = ServiceBuilder::new().layer(DedupLayer::new()).layer(ConcurrencyLimitLayer::new(1)).service(upstream);
    let (_sender, body) = Channel::<Bytes, BoxError>::new(1);
    let slow = tokio::spawn(service.clone().oneshot(request(body.boxed(), "slow")));
    settle().await;
    let quick = timeout(secs(20), service.oneshot(request(whole("{}"), "quick"))).await;
    assert_eq!(quick.expect("it waits for a place that no call uses").unwrap().status(), 200);
    slow.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_polled_yet_leads_no_other() {
    let mut service = DedupLayer::new().layer(echo());
    let unpolled = service.call(post("hello"));
    let other = timeout(secs(20), service.clone().oneshot(post("hello"))).await;
    let other = other.expect("it waits for a call that was not made").unwrap();
    assert_eq!(role(&other), Some(DedupRole::Leader));
    assert_eq!(role(&unpolled.await.unwrap()), Some(DedupRole::Joined));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_complete_before_takes_no_memory() {
    let service = DedupLayer::new().memory(Memory::new(0)).layer(echo());
    let long: &str = "a".repeat(3_000).leak();
    let request = || Request::post("/").header("authorization", "a").body(Full::from([long, long].concat())).unwrap();
    let answer = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(role(&answer), Some(DedupRole::Leader));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_to_come_passes() {
    let log = Arc::new(Log::default());
    let upstream = tower::service_fn(|request: Request<CallBody>| async move {
        let body = request.into_body().collect().await?;
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from(body.to_bytes())))
    });
    let service = DedupLayer::new().read_timeout(secs(3)).observer(log.clone()).layer(upstream);
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    let mut slow = request(body.boxed(), "slow");
    slow.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    let call = tokio::spawn(service.oneshot(slow));
    let start = Instant::now();
    sender.send_data("one ".into()).await.unwrap();
    while log.names().is_empty() {
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert_eq!(log.names(), ["bypassed: dedup"]);
    assert!(start.elapsed() >= secs(3) && start.elapsed() < secs(4), "{:?}", start.elapsed());
    sender.send_data("two".into()).await.unwrap();
    drop(sender);
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.headers()["idempotency-key-ignored"], "body-too-slow");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "one two");
}

/// Ready once and, after that call, when it is told to. Readiness belongs to the clone that was polled.
struct Gate {
    open: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    ready: bool,
}

impl Clone for Gate {
    fn clone(&self) -> Self {
        Self { open: self.open.clone(), asked: self.asked.clone(), ready: false }
    }
}

impl Service<Request<CallBody>> for Gate {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.asked.fetch_add(1, SeqCst);
        if !self.open.load(SeqCst) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready");
        Box::pin(async { Ok(Response::new(Full::from(request.into_body().collect().await.unwrap().to_bytes()))) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_and_a_follower_do_not_wait_for_the_inner_service() {
    let gate = Gate { open: Arc::new(AtomicBool::new(true)), asked: Arc::default(), ready: false };
    let service = DedupLayer::new().layer(gate.clone());
    let first = service.clone().oneshot(post_key("k", "hi")).await.unwrap();
    first.into_body().collect().await.unwrap();

    gate.open.store(false, SeqCst);
    let asked = gate.asked.load(SeqCst);
    let again = timeout(secs(1), service.clone().oneshot(post_key("k", "hi"))).await;
    assert_eq!(role(&again.expect("a replay waits").unwrap()), Some(DedupRole::Replayed));
    assert_eq!(gate.asked.load(SeqCst), asked, "it was asked whether it is ready");

    // The call that waits is shared already; one of a limit is enough for both, and a caller that leaves leaves nothing open.
    let leader = tokio::spawn(service.clone().oneshot(post("hello")));
    settle().await;
    let follower = tokio::spawn(service.clone().oneshot(post("hello")));
    settle().await;
    leader.abort();
    settle().await;
    gate.open.store(true, SeqCst);
    let answer = timeout(secs(1), follower).await.expect("it waits for ever").unwrap().unwrap();
    assert_eq!(role(&answer), Some(DedupRole::Joined));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test(start_paused = true)]
async fn what_passes_waits_for_the_very_clone_that_is_called() {
    let gate = Gate { open: Arc::new(AtomicBool::new(true)), asked: Arc::default(), ready: false };
    for layer in [DedupLayer::new(), DedupLayer::disabled(), DedupLayer::new().max_body_bytes(1)] {
        let mut service = layer.layer(gate.clone());
        for request in [Request::get("/").body(Full::<Bytes>::from("hi")).unwrap(), post("hi")] {
            let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap();
            let answer = ready.call(request).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hi");
        }
    }
}
