//! What the layers outside make of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::{Attempts, CircuitBreakerLayer, CircuitState, RetryAfterBackoffLayer, StreamGuardLayer};

use super::{Answer, CHAT, DONE, HELLO, OVERLOADED, ROLE, STOP};
use crate::support::Step;
use crate::support::Step::Data;

fn request() -> Request<Full<Bytes>> {
    Request::post(CHAT).body(Full::from("{}")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_fails_before_content_is_retried() {
    for first in [vec![Data(ROLE), Data(OVERLOADED)], vec![Data(ROLE)], vec![], vec![Data(DONE)]] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let upstream = service_fn(move |_| {
            let steps: Vec<Step> = match counted.fetch_add(1, SeqCst) {
                0 => first.clone(),
                _ => vec![Data(ROLE), Data(HELLO), Data(STOP), Data(DONE)],
            };
            async move { Ok::<_, Infallible>(Answer::stream(steps).response()) }
        });
        let service =
            ServiceBuilder::new().layer(RetryAfterBackoffLayer::llm()).layer(StreamGuardLayer::new()).service(upstream);
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(Attempts::of(&response), Attempts(2));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, [ROLE, HELLO, STOP, DONE].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_is_spent_is_not_retried() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let upstream = service_fn(move |_| {
        counted.fetch_add(1, SeqCst);
        let body = r#"{"error":{"code":"insufficient_quota","message":"x"}}"#;
        async move { Ok::<_, Infallible>(Answer::json(429, body).response()) }
    });
    let service =
        ServiceBuilder::new().layer(RetryAfterBackoffLayer::llm()).layer(StreamGuardLayer::new()).service(upstream);
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!((response.status().as_u16(), calls.load(SeqCst)), (429, 1));
}

/// How many calls it takes until the circuit is open.
async fn opens_after(steps: Vec<Step>) -> Option<usize> {
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let upstream = service_fn(move |_| {
        let steps = steps.clone();
        async move { Ok::<_, Infallible>(Answer::stream(steps).response()) }
    });
    let service = ServiceBuilder::new().layer(breaker).layer(StreamGuardLayer::new()).service(upstream);
    for call in 1..=20 {
        let response = service.clone().oneshot(request()).await.unwrap();
        let _ = response.into_body().collect().await;
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        if handle.state() == CircuitState::Open {
            return Some(call);
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn the_breaker_counts_what_is_found() {
    assert!(opens_after(vec![Data(HELLO)]).await.is_some(), "truncated");
    assert!(opens_after(vec![Data(HELLO), Data(OVERLOADED)]).await.is_some(), "an error behind content");
    assert!(opens_after(vec![Data(OVERLOADED)]).await.is_some(), "an error before content");
    assert_eq!(opens_after(vec![Data(HELLO), Data(STOP), Data(DONE)]).await, None);
    let limited = STOP.replace("stop", "length").leak();
    assert_eq!(opens_after(vec![Data(HELLO), Data(limited), Data(DONE)]).await, None);
    let quota = "data: {\"error\":{\"code\":\"insufficient_quota\"}}\n\n";
    assert_eq!(opens_after(vec![Data(quota)]).await, None, "a credential is not the upstream's illness");
    assert_eq!(opens_after(vec![Data(HELLO), Data(quota)]).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_tells_its_caller_in_the_dialect_and_then_breaks_off() {
    use tower_buttress::{TimeoutProfile, presets};

    for (steps, told) in
        [(vec![Data(HELLO)], "stream_truncated"), (vec![Data(HELLO), Data(OVERLOADED), Data(DONE)], "overloaded_error")]
    {
        let upstream = service_fn(move |_: Request<_>| {
            let steps = steps.clone();
            async move { Ok::<_, Infallible>(Answer::stream(steps).response()) }
        });
        let service = tower::Layer::layer(&presets::llm_gateway(TimeoutProfile::STANDARD), upstream);
        let mut body = service.oneshot(request()).await.unwrap().into_body();
        let mut text = String::new();
        let error = loop {
            match body.frame().await {
                Some(Ok(frame)) => text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap(),
                Some(Err(err)) => break Some(err),
                None => break None,
            }
        };
        assert!(text.starts_with(HELLO) && text.contains(told) && !text.contains("[DONE]"), "{text}");
        assert!(error.is_some());
    }
}
