//! How an open circuit finds out: by few, once, and whatever becomes of them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::time::advance;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::circuit_breaker::CircuitBreaker;
use tower_buttress::{CircuitBreakerLayer, CircuitState};

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
async fn a_probe_without_an_answer_opens_for_twice_as_long_and_one_that_fails_for_as_long_as_before() {
    let refused = || Answer::fails(std::io::ErrorKind::ConnectionRefused);
    let rig = due(as_is, vec![Answer::status(500), refused(), Answer::status(500), refused()]).await;
    assert_eq!(rig.calls(2).await, ["500 said", "refused"]);
    for open_for in [5, 10, 10] {
        assert_eq!(rig.circuit().snapshot().open_for, Some(secs(open_for)));
        advance(secs(open_for)).await;
        rig.call().await;
    }
    assert_eq!(rig.circuit().snapshot().open_for, Some(secs(15)), "and no longer");
}

#[tokio::test(start_paused = true)]
async fn as_many_probes_as_allowed_and_all_of_them_must_succeed() {
    let three = |layer: CircuitBreakerLayer| layer.configure(|config| config.max_probes(3));
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
    let rig = due(as_is, vec![Answer::status(200), Answer::status(200)]).await;
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
    assert_eq!(rig.state(), CircuitState::Closed, "no call waits for a stream of minutes");
    assert_eq!(rig.circuit().snapshot().stats.calls, 0);
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(rig.circuit().snapshot().stats.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_body_breaks_off_before_its_first_data_has_failed() {
    let rig = due(as_is, vec![stream([Step::Wait(secs(1)), Step::Fail("cut")])]).await;
    assert_eq!(rig.call().await, "200 cut");
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_slow_has_failed() {
    let slow = |layer: CircuitBreakerLayer| layer.configure(|config| config.slow_calls(secs(1), 0.5));
    let rig = due(slow, vec![stream([Step::Wait(secs(2)), Step::Data("a")])]).await;
    assert_eq!(rig.call().await, "200 a");
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn what_began_before_decides_nothing() {
    let late = |status| Answer::status(status).after(secs(12));
    let failures = (0..5).map(|_| Answer::status(500));
    let rig =
        Rig::new(as_is, Upstream::new([late(200), late(500)].into_iter().chain(failures).chain([Answer::never()])));
    let (good, bad) = (rig.begin().await, rig.begin().await);
    let (good, bad) = (tokio::spawn(good), tokio::spawn(bad));
    tokio::task::yield_now().await;
    // They wait for so long that nothing is expected of them.
    advance(secs(6)).await;
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

/// Whatever it waits for: the upstream, or its own consumer, who may never come.
#[tokio::test(start_paused = true)]
async fn while_a_probe_waits_one_more_call_may_go_after_each_open_time() {
    let answers = vec![Answer::never(), Answer::never(), Answer::status(200)];
    let rig = due(as_is, answers).await;
    let mut first = pin!(rig.begin().await);
    assert!(poll_once(first.as_mut()).await.is_pending());
    advance(secs(5) - Duration::from_millis(1)).await;
    assert_eq!(rig.call().await, "refused");
    advance(Duration::from_millis(1)).await;
    let mut second = pin!(rig.begin().await);
    assert!(poll_once(second.as_mut()).await.is_pending());
    assert_eq!(rig.circuit().snapshot().probes, 2);
    advance(secs(9)).await;
    assert_eq!(rig.call().await, "refused", "the open time has doubled");
    advance(secs(1)).await;
    assert_eq!(rig.call().await, "200 said");
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_consumer_holds_the_head_and_does_not_read_is_overtaken() {
    let rig = due(as_is, vec![Answer::status(200), Answer::status(200)]).await;
    let response = rig.head().await.unwrap();
    advance(secs(5)).await;
    assert_eq!(rig.call().await, "200 said");
    assert_eq!(rig.state(), CircuitState::Closed);
    let before = rig.circuit().snapshot();
    // It reads at last, and says nothing any more.
    response.into_body().collect().await.unwrap();
    assert_eq!(rig.circuit().snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_overtaken_may_fail_and_the_next_one_decides() {
    let hung = Answer::fails(std::io::ErrorKind::ConnectionReset).after(secs(6));
    let rig = due(as_is, vec![hung, Answer::status(200).after(secs(2))]).await;
    let (first, second) = (rig.begin().await, async {
        tokio::time::sleep(secs(5)).await;
        rig.call().await
    });
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err());
    assert_eq!(second, "200 said");
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_its_caller_gives_up_after_a_long_wait_has_failed() {
    let set = |layer: CircuitBreakerLayer| layer.configure(|config| config.first_byte(secs(8)));
    let rig = due(set, vec![Answer::never(), Answer::never()]).await;
    assert!(tokio::time::timeout(secs(4), rig.begin().await).await.is_err());
    assert_eq!(rig.state(), CircuitState::Open);
    assert_eq!(rig.circuit().snapshot().open_for, Some(secs(6)), "ten seconds after it began");
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

/// Behind a limit, a service that is ready, or next to be, keeps others waiting: the probe above all.
#[tokio::test(start_paused = true)]
async fn a_refused_call_holds_no_place_that_the_probe_waits_for() {
    let rig = Rig::new(as_is, Upstream::new((0..3).map(|_| Answer::status(200))));
    let limited = rig.layer.layer(GlobalConcurrencyLimitLayer::new(1).layer(rig.upstream.clone()));
    let (mut ready, mut next) = (limited.clone(), limited.clone());
    let call = async |service: &mut CircuitBreaker<_>| {
        let called = ServiceExt::<Request<Script>>::ready(service).await.unwrap().call(request("GET", []));
        tokio::time::timeout(secs(1), called).await.expect("no call holds the place").unwrap().status().as_u16()
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
