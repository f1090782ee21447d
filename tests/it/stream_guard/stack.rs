//! What the layers outside make of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::{
    Attempts, CircuitBreakerLayer, CircuitState, FallbackLayer, RetryAfterBackoffLayer, ServedBy, SseHeartbeatLayer,
    StreamGuardLayer,
};

use super::{Answer, CHAT, DONE, HELLO, OVERLOADED, ROLE, STOP};
use crate::support::Step::{self, Data, Wait};
use crate::support::{secs, trace};

/// A chunk that says nothing.
const PING: &str = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[]}\n\n";

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
async fn heartbeats_tell_of_an_error_in_the_dialect_that_the_events_are_of() {
    let gemini = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n";
    let responses = "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"delta\":\"a\"}\n\n";
    for (event, told) in [
        (gemini, "data: {\"error\":{\"code\":504,"),
        (responses, "event: error\ndata: {\"type\":\"error\",\"sequence_number\":5,"),
        ("data: {\"own\":1}\n\n", "event: error\ndata: {\"type\":\"error\",\"error\":{"),
    ] {
        let upstream =
            service_fn(
                move |_| async move { Ok::<_, Infallible>(Answer::stream([Data(event), Step::Hang]).response()) },
            );
        let service = ServiceBuilder::new()
            .layer(SseHeartbeatLayer::new(secs(15)).error_events(true))
            .layer(StreamGuardLayer::new())
            .layer(tower_buttress::IdleBodyTimeoutLayer::new(secs(10)))
            .service(upstream);
        let request = Request::post("/a/path/of/its/own").body(Full::<Bytes>::from("{}")).unwrap();
        let (text, error) = super::read(service.oneshot(request).await.unwrap()).await;
        assert!(error.is_some() && text.strip_prefix(event).unwrap().starts_with(told), "{text}");
    }
}

/// Asks an upstream that answers so, with a backup beside it. Returns whether the backup was asked.
async fn reaches_the_backup(own_credentials: bool, answer: fn() -> Answer) -> bool {
    let backup = service_fn(|_: Request<tower_buttress::CallBody>| async {
        Ok::<_, Infallible>(Answer::stream([Data(HELLO), Data(STOP), Data(DONE)]).response())
    });
    let fallback = FallbackLayer::new(StreamGuardLayer::new().layer(backup)).own_credentials(own_credentials);
    let primary = service_fn(move |_: Request<tower_buttress::CallBody>| {
        let response = answer().response();
        async { Ok::<_, Infallible>(response) }
    });
    let service = ServiceBuilder::new().layer(fallback).layer(StreamGuardLayer::new()).service(primary);
    let response = service.oneshot(request()).await.unwrap();
    let is_backup = ServedBy::of(&response).is_some();
    assert_eq!(is_backup, response.status() == 200);
    is_backup
}

#[tokio::test(start_paused = true)]
async fn what_fails_before_content_goes_to_the_backup() {
    const QUOTA: &str = "data: {\"error\":{\"message\":\"x\",\"code\":\"insufficient_quota\"}}\n\n";
    const LONG: &str = r#"{"error":{"message":"x","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    const WRONG: &str = r#"{"error":{"message":"x","type":"invalid_request_error","code":null}}"#;
    for (own_credentials, goes, answer) in [
        (false, true, (|| Answer::stream([Data(ROLE), Data(OVERLOADED)])) as fn() -> Answer),
        (false, true, || Answer::stream([Data(ROLE)])),
        (false, true, || Answer::json(200, "{\"error\":{\"code\":502,\"message\":\"x\"}}")),
        // What a caller's credential, or its request, brings about is paid by the operator only where that was said.
        (false, false, || Answer::stream([Data(ROLE), Data(QUOTA)])),
        (true, true, || Answer::stream([Data(ROLE), Data(QUOTA)])),
        (false, false, || Answer::json(400, LONG)),
        (true, true, || Answer::json(400, LONG)),
        (true, false, || Answer::json(400, WRONG)),
    ] {
        assert_eq!(reaches_the_backup(own_credentials, answer).await, goes);
    }
}

/// Its reader has the answer's id, and the pings of the model, which are no sign that it is stuck.
#[tokio::test(start_paused = true)]
async fn a_model_may_think_for_a_minute_behind_its_start() {
    use tower_buttress::{TimeoutProfile, presets};

    for preset in [presets::llm_client, presets::llm_gateway] {
        let upstream = service_fn(move |_: Request<_>| async move {
            let thinks = (0..6).flat_map(|_| [Wait(secs(10)), Data(PING)]);
            let said = [Data(HELLO), Data(STOP), Data(DONE)];
            Ok::<_, Infallible>(Answer::stream([Data(ROLE)].into_iter().chain(thinks).chain(said)).response())
        });
        let service = preset(TimeoutProfile::STANDARD).layer(upstream);
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!((response.status().as_u16(), Attempts::of(&response)), (200, Attempts(1)));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.ends_with([HELLO, STOP, DONE].concat().as_bytes()));
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
        let service = presets::llm_gateway(TimeoutProfile::STANDARD).layer(upstream);
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

/// Heartbeats outside do not read again what the guard has read.
#[tokio::test(start_paused = true)]
async fn heartbeats_learn_of_the_guard_that_a_stream_has_ids() {
    const WITH_ID: &str =
        "id: 7\ndata: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
    let (begun, rest) = WITH_ID.split_at(3);
    for (events, beat) in [
        (vec![Data(HELLO)], "+15s : keepalive\n\n"),
        (vec![Data(HELLO), Data("id: 7\n\n")], "+15s : keepalive\n"),
        (vec![Data(WITH_ID)], "+15s : keepalive\n"),
        (vec![Data(HELLO), Data(begun), Data(rest)], "+15s : keepalive\n"),
    ] {
        let steps: Vec<Step> = events.into_iter().chain([Wait(secs(20)), Data(DONE)]).collect();
        let upstream = service_fn(move |_: Request<Full<Bytes>>| {
            let response = Answer::stream(steps.clone()).response();
            async { Ok::<_, Infallible>(response) }
        });
        let service = ServiceBuilder::new()
            .layer(SseHeartbeatLayer::new(secs(15)))
            .layer(StreamGuardLayer::new())
            .service(upstream);
        let trace = trace(service.oneshot(request()).await.unwrap().into_body()).await;
        assert!(trace.iter().any(|event| event == beat), "{trace:?}");
        assert_eq!(trace.iter().filter(|event| event.contains("keepalive")).count(), 1);
    }
}
