//! How an open circuit finds out: by few, once, and whatever becomes of them.

use std::future::{Future, poll_fn};
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::advance;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::{CircuitBreaker, CircuitBreakerLayer, CircuitState};

use super::{Rig, as_is, stream};
use crate::support::upstream::{Answer, Upstream, request};
use crate::support::{Script, Step, secs};

/// Open, and due.
async fn due(set: impl FnOnce(CircuitBreakerLayer) -> CircuitBreakerLayer, answers: Vec<Answer>) -> Rig {
    let rig = Rig::opened(set, answers);
    rig.open().await;
    advance(secs(5)).await;
    rig
}

async fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    let mut future = Some(future);
    poll_fn(|cx| Poll::Ready(future.take().unwrap().poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn one_call_probes_and_the_others_are_refused() {
    let rig = due(as_is, vec![Answer::status(200).after(secs(1)), Answer::status(200)]).await;
    let mut probe = pin!(rig.begin().await);
    assert!(poll_once(probe.as_mut()).await.is_pending());
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    assert_eq!(rig.calls(3).await, ["refused"; 3]);
    assert_eq!(rig.circuit().snapshot().probes, 1);
    probe.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(rig.state(), CircuitState::Closed);
    assert_eq!(rig.call().await, "200 said");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_opens_for_twice_as_long() {
    let rig = due(as_is, vec![Answer::status(500), Answer::fails(std::io::ErrorKind::ConnectionRefused)]).await;
    assert_eq!(rig.calls(2).await, ["500 said", "refused"]);
    assert_eq!(rig.circuit().snapshot().open_for, Some(secs(10)));
    advance(secs(10)).await;
    rig.call().await;
    assert_eq!(rig.circuit().snapshot().open_for, Some(secs(20)));
}

#[tokio::test(start_paused = true)]
async fn as_many_probes_as_allowed_and_all_of_them_must_succeed() {
    let three = |layer: CircuitBreakerLayer| layer.probes(NonZeroU32::new(3).unwrap());
    let answers = (1..=3).map(|s| Answer::status(204).body(Script::new([])).after(secs(s))).collect();
    let rig = due(three, answers).await;
    let probes = [rig.begin().await, rig.begin().await, rig.begin().await];
    assert_eq!(rig.call().await, "refused");
    for (settled, probe) in probes.into_iter().enumerate() {
        assert_eq!(rig.state(), CircuitState::HalfOpen, "{settled} have succeeded");
        probe.await.unwrap();
    }
    assert_eq!(rig.state(), CircuitState::Closed);
}

/// Wherever a probe's caller lets go of it, its place is free at once.
#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_frees_its_place() {
    let until_never = || vec![Answer::never(), Answer::status(200)];

    // Before it was polled.
    let rig = due(as_is, vec![Answer::status(200)]).await;
    drop(rig.begin().await);
    assert_eq!(rig.call().await, "200 said");

    // While the service becomes ready.
    let rig = due(as_is, vec![Answer::status(200)]).await;
    rig.upstream.clone().ready_after(secs(1));
    assert!(tokio::time::timeout(secs(1) / 2, rig.begin().await).await.is_err());
    assert_eq!(rig.call().await, "200 said");

    // While it waits for the head.
    let rig = due(as_is, until_never()).await;
    assert!(tokio::time::timeout(secs(1), rig.begin().await).await.is_err());
    assert_eq!(rig.call().await, "200 said");

    // With the head in its hand.
    let rig = due(as_is, vec![Answer::status(200), Answer::status(200)]).await;
    drop(rig.head().await.unwrap());
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    assert_eq!(rig.call().await, "200 said");

    // While it waits for the first data; an empty frame is none.
    let rig = due(as_is, vec![stream([Step::Data(""), Step::Hang]), Answer::status(200)]).await;
    let mut body = rig.head().await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(tokio::time::timeout(secs(1), body.frame()).await.is_err());
    assert_eq!(rig.call().await, "refused");
    drop(body);
    assert_eq!(rig.call().await, "200 said");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_probe() {
    let layer = CircuitBreakerLayer::new();
    layer.handle().open_for(Duration::ZERO);
    let service =
        layer.layer(service_fn(|_| poll_fn(|_| -> Poll<Result<http::Response<Script>, std::io::Error>> { panic!() })));
    assert!(tokio::spawn(service.oneshot(request("GET", []))).await.is_err());
    assert_eq!(layer.handle().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_settled_at_its_first_data_and_its_body_counts_in_the_new_state() {
    let rig = due(as_is, vec![stream([Step::Data("a"), Step::Wait(secs(60)), Step::Fail("cut")])]).await;
    let mut body = rig.head().await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(rig.state(), CircuitState::Closed, "nobody waits for a stream of minutes");
    assert_eq!(rig.circuit().snapshot().figures.calls, 0);
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(rig.circuit().snapshot().figures.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_body_breaks_off_before_its_first_data_has_failed() {
    let rig = due(as_is, vec![stream([Step::Wait(secs(1)), Step::Fail("cut")])]).await;
    assert_eq!(rig.call().await, "200 cut");
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_slow_has_failed() {
    let slow = |layer: CircuitBreakerLayer| layer.slow_calls(secs(1), 0.5).unwrap();
    let rig = due(slow, vec![stream([Step::Wait(secs(2)), Step::Data("a")])]).await;
    assert_eq!(rig.call().await, "200 a");
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn what_began_before_decides_nothing() {
    let late = |status| Answer::status(status).after(secs(10));
    let failures = (0..5).map(|_| Answer::status(500));
    let rig =
        Rig::new(as_is, Upstream::new([late(200), late(500)].into_iter().chain(failures).chain([Answer::never()])));
    let (good, bad) = (rig.begin().await, rig.begin().await);
    let (good, bad) = (tokio::spawn(good), tokio::spawn(bad));
    tokio::task::yield_now().await;
    rig.open().await;
    advance(secs(5)).await;
    let mut probe = pin!(rig.begin().await);
    assert!(poll_once(probe.as_mut()).await.is_pending());
    // Both end now, while the probe is on its way.
    good.await.unwrap().unwrap().into_body().collect().await.unwrap();
    bad.await.unwrap().unwrap();
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    assert_eq!(rig.circuit().snapshot().probes, 1);
}

fn patience(layer: CircuitBreakerLayer) -> CircuitBreakerLayer {
    layer.probe_timeout(secs(30))
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_the_upstream_keeps_waiting_opens_at_the_next_call() {
    let rig = due(patience, vec![Answer::never()]).await;
    let mut probe = pin!(rig.begin().await);
    assert!(poll_once(probe.as_mut()).await.is_pending());
    advance(secs(30) - Duration::from_millis(1)).await;
    assert_eq!(rig.call().await, "refused");
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    advance(Duration::from_millis(1)).await;
    assert_eq!(rig.call().await, "refused");
    assert_eq!(rig.circuit().snapshot().open_for, Some(secs(10)));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_service_to_be_ready_is_waiting_for_the_upstream() {
    let rig = due(patience, vec![]).await;
    rig.upstream.clone().ready_after(secs(3600));
    let mut probe = pin!(rig.begin().await);
    assert!(poll_once(probe.as_mut()).await.is_pending());
    assert_eq!(rig.call().await, "refused", "and nobody else waits for it");
    advance(secs(30)).await;
    rig.call().await;
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_for_the_first_data_too() {
    let rig = due(patience, vec![stream([Step::Hang])]).await;
    let mut body = rig.head().await.unwrap().into_body();
    let mut frame = pin!(body.frame());
    assert!(poll_once(frame.as_mut()).await.is_pending());
    advance(secs(30)).await;
    rig.call().await;
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_consumer_holds_the_head_and_does_not_read_is_given_up() {
    let rig = due(patience, vec![Answer::status(200), Answer::status(200)]).await;
    let response = rig.head().await.unwrap();
    advance(secs(30) - Duration::from_millis(1)).await;
    assert_eq!(rig.call().await, "refused");
    advance(Duration::from_millis(1)).await;
    assert_eq!(rig.call().await, "200 said");
    assert_eq!(rig.state(), CircuitState::Closed);
    let before = rig.circuit().snapshot();
    // It reads at last. Its place has long been another's.
    response.into_body().collect().await.unwrap();
    assert_eq!(rig.circuit().snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_consumer_was_given_a_frame_without_data_and_does_not_read_on_is_given_up() {
    let rig = due(patience, vec![stream([Step::Data(""), Step::Data("a")]), Answer::status(200)]).await;
    let mut body = rig.head().await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    advance(secs(30)).await;
    assert_eq!(rig.call().await, "200 said");
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_woken_and_is_not_polled_waits_for_its_consumer() {
    let (answer, answered) = oneshot::channel();
    let mut answered = Some(answered);
    let layer = patience(CircuitBreakerLayer::new());
    let upstream = Upstream::new([Answer::status(200)]);
    let inner = upstream.clone();
    let service = service_fn(move |request: Request<Script>| {
        let (answered, inner) = (answered.take(), inner.clone());
        async move {
            if let Some(answered) = answered {
                let _ = answered.await;
            }
            inner.oneshot(request).await
        }
    });
    layer.handle().open_for(Duration::ZERO);
    // One breaker, one service that cannot be cloned apart from its first answer.
    let service = layer.layer(tower::util::BoxCloneService::new(Shared::new(service)));
    let mut probe = pin!(service.clone().oneshot(request("GET", [])));
    assert!(poll_once(probe.as_mut()).await.is_pending());
    advance(secs(1)).await;
    // The upstream answers, and the task looks the other way.
    answer.send(()).unwrap();
    advance(secs(29)).await;
    assert_eq!(layer.handle().snapshot().probes, 1);
    advance(secs(1)).await;
    let next = service.clone().oneshot(request("GET", [])).await.unwrap();
    assert_eq!(next.status(), 200, "the next call took its place");
    next.into_body().collect().await.unwrap();
    assert_eq!(layer.handle().state(), CircuitState::Closed);
}

/// Makes clones of a service share it.
struct Shared<S>(std::sync::Arc<std::sync::Mutex<S>>);

impl<S> Shared<S> {
    fn new(service: S) -> Self {
        Self(std::sync::Arc::new(std::sync::Mutex::new(service)))
    }
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service<R>, R> Service<R> for Shared<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.lock().unwrap().poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.lock().unwrap().call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_probes_waker_reaches_its_task() {
    let rig = due(as_is, vec![stream([Step::Wait(secs(1)), Step::Data("a")]).after(secs(1))]).await;
    let called = tokio::time::timeout(secs(3), rig.call()).await;
    assert_eq!(called.unwrap(), "200 a");
}

#[tokio::test(start_paused = true)]
async fn a_probe_can_move_to_another_task() {
    let rig = due(as_is, vec![Answer::status(200).after(secs(1))]).await;
    let mut probe = Box::pin(rig.begin().await);
    assert!(poll_once(probe.as_mut()).await.is_pending());
    let response = tokio::time::timeout(secs(3), tokio::spawn(probe)).await.unwrap().unwrap().unwrap();
    assert_eq!(response.status(), 200);
}

/// Behind a limit, whoever is ready, or next to be, keeps others waiting: the probe above all.
#[tokio::test(start_paused = true)]
async fn who_is_refused_holds_no_place_that_the_probe_waits_for() {
    let rig = Rig::new(as_is, Upstream::new((0..3).map(|_| Answer::status(200))));
    let limited = rig.layer.layer(GlobalConcurrencyLimitLayer::new(1).layer(rig.upstream.clone()));
    let (mut ready, mut next) = (limited.clone(), limited.clone());
    let call = async |service: &mut CircuitBreaker<_>| {
        let called = ServiceExt::<Request<Script>>::ready(service).await.unwrap().call(request("GET", []));
        tokio::time::timeout(secs(1), called).await.expect("nobody holds the place").unwrap().status().as_u16()
    };

    ServiceExt::<Request<Script>>::ready(&mut ready).await.unwrap();
    let mut waits = pin!(poll_fn(|cx| Service::<Request<Script>>::poll_ready(&mut next, cx)));
    assert!(poll_once(waits.as_mut()).await.is_pending());
    rig.circuit().open_for(secs(5));
    assert_eq!(ready.call(request("GET", [])).await.unwrap().status(), 503);
    assert_eq!(call(&mut next).await, 503);
    advance(secs(5)).await;
    assert_eq!(call(&mut limited.clone()).await, 200);
    drop((ready, next));
}

/// It was let in as one of many, and is the probe when it calls.
#[tokio::test(start_paused = true)]
async fn a_probe_that_was_ready_already_does_not_wait_for_its_own_place() {
    let rig = Rig::new(as_is, Upstream::new([Answer::status(200)]));
    let mut service = rig.layer.layer(GlobalConcurrencyLimitLayer::new(1).layer(rig.upstream.clone()));
    ServiceExt::<Request<Script>>::ready(&mut service).await.unwrap();
    rig.circuit().open_for(Duration::ZERO);
    let probe = tokio::time::timeout(secs(1), service.call(request("GET", []))).await;
    assert_eq!(probe.expect("it holds the place itself").unwrap().status(), 200);
}
