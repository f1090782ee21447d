//! Limits of our own, for each caller.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tower::Layer;
use tower_buttress::{Deadline, Rate};

use super::*;
use crate::support::{secs, stopped_for};

#[tokio::test(start_paused = true)]
async fn a_caller_that_has_used_its_share_is_refused_and_the_others_are_not() {
    let calls = Calls::new();
    let layer = PaceLayer::per_caller().requests(Rate::per_minute(3));
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    for left in (0..3).rev() {
        let answer = service.clone().oneshot(ask("leaked")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["ratelimit-policy"], "\"requests\";q=3;w=60");
        assert_eq!(answer.headers()["ratelimit"], format!("\"requests\";r={left};t={}", (3 - left) * 20));
    }
    let refused = service.clone().oneshot(ask("leaked")).await.unwrap();
    assert_eq!((kind(&refused), retry_after(&refused)), (Some(RejectionKind::Paced), 20));
    assert_eq!(refused.headers()["ratelimit-policy"], "\"requests\";q=3;w=60");
    assert_eq!(refused.headers()["ratelimit"], "\"requests\";r=0;t=60");
    assert_eq!(service.clone().oneshot(ask("other")).await.unwrap().status(), 200);
    tokio::time::sleep(secs(20)).await;
    assert_eq!(service.clone().oneshot(ask("leaked")).await.unwrap().status(), 200);
    assert_eq!(calls.times().len(), 5);
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_caller_that_has_used_its_tokens_is_refused_and_the_others_are_not() {
    let calls = Calls::new();
    let layer = PaceLayer::per_caller().requests(Rate::per_minute(60)).tokens(Rate::per_minute(1_000));
    let service = layer.layer(upstream(&calls, |_| {
        let mut answer = answer(200, &[("content-type", "application/json")]);
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":900}}"#;
        *answer.body_mut() = Full::from(usage);
        answer
    }));
    let chat = |tenant: &str| {
        let mut request = ask(tenant);
        *request.uri_mut() = "http://provider/v1/chat/completions".parse().unwrap();
        request.extensions_mut().insert(tower_buttress::TokenEstimate::new().input(100).max_output(0));
        service.clone().oneshot(request)
    };
    let answer = chat("leaked").await.unwrap();
    let policy = answer.headers()["ratelimit-policy"].to_str().unwrap();
    assert!(policy.contains("\"tokens\";q=1000;w=60"), "{policy}");
    // It has said less than it used.
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    let refused = chat("leaked").await.unwrap();
    assert_eq!((kind(&refused), retry_after(&refused)), (Some(RejectionKind::Paced), 6));
    assert_eq!(chat("other").await.unwrap().status(), 200);
    tokio::time::sleep(secs(6)).await;
    assert_eq!(chat("leaked").await.unwrap().status(), 200);
    // What was refused took none of its requests.
    assert_eq!(calls.times(), [0.0, 0.0, 6.0]);
}

#[tokio::test(start_paused = true)]
async fn calls_at_a_time_are_limited_per_caller() {
    let layer = PaceLayer::per_caller().concurrency(2);
    let service = layer.layer(service_fn(|_: Ask| async {
        tokio::time::sleep(secs(1)).await;
        Ok::<_, Infallible>(answer(200, &[]))
    }));
    let call = || service.clone().oneshot(ask("a"));
    let (first, second, third) = tokio::join!(call(), call(), call());
    let third = third.unwrap();
    assert_eq!((third.status().as_u16(), kind(&third)), (429, Some(RejectionKind::Paced)));
    assert_eq!(third.headers()["ratelimit"], "\"concurrency\";r=0;t=0");
    assert_eq!(second.unwrap().headers()["ratelimit"], "\"concurrency\";r=0;t=0");
    // One whose body is unread is under way.
    assert_eq!(layer.stats().in_flight, 1);
    assert_eq!(first.as_ref().unwrap().headers()["ratelimit-policy"], "\"concurrency\";q=2;qu=\"concurrent-requests\"");
    drop(first);
    assert_eq!(layer.stats().in_flight, 0);
    assert_eq!(call().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_may_wait_waits_for_its_own_calls() {
    let layer = PaceLayer::per_caller().concurrency(1).max_wait(secs(10));
    let service = layer.layer(service_fn(|_: Ask| async {
        tokio::time::sleep(secs(1)).await;
        Ok::<_, Infallible>(answer(200, &[]))
    }));
    let start = Instant::now();
    let whole = |tenant| {
        let service = service.clone();
        async move { drop(service.oneshot(ask(tenant)).await.unwrap()) }
    };
    tokio::join!(whole("a"), whole("a"), whole("b"), whole("a"));
    assert_eq!((start.elapsed(), layer.stats().waiting, layer.stats().in_flight), (secs(3), 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_kept_and_not_polled_lets_others_give_up_and_be_served() {
    let layer = PaceLayer::per_caller().concurrency(1).max_wait(secs(5));
    let service = layer.layer(service_fn(|_: Ask| async {
        tokio::time::sleep(secs(7)).await;
        Ok::<_, Infallible>(answer(200, &[]))
    }));
    let first = tokio::spawn(service.clone().oneshot(ask("a")));
    tokio::task::yield_now().await;
    let start = Instant::now();
    let mut kept = Box::pin(service.clone().oneshot(ask("a")));
    assert!(kept.as_mut().now_or_never().is_none());
    tokio::time::sleep(secs(1)).await;
    let refused = service.clone().oneshot(ask("a")).await.unwrap();
    assert_eq!((start.elapsed(), kind(&refused)), (secs(6), Some(RejectionKind::Paced)));
    let mut hurried = ask("a");
    hurried.extensions_mut().insert(Deadline::after(Duration::from_millis(500)).unwrap());
    let refused = service.clone().oneshot(hurried).await.unwrap();
    assert_eq!((start.elapsed().as_millis(), kind(&refused)), (6_500, Some(RejectionKind::DeadlineExceeded)));
    drop(first.await.unwrap().unwrap());
    // Its wait is over, but its turn has come before it was polled.
    assert!(kept.as_mut().now_or_never().is_none());
    assert_eq!((start.elapsed(), layer.stats().waiting, layer.stats().in_flight), (secs(7), 0, 1));
    // Where none waits any more, the alarm's task ends at once.
    let mut leaves = Box::pin(service.clone().oneshot(ask("a")));
    assert!(leaves.as_mut().now_or_never().is_none());
    for tasks in [1, 0] {
        tokio::task::yield_now().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
        leaves.set(service.clone().oneshot(ask("b")));
    }
    assert_eq!(kept.await.unwrap().status(), 200);
    assert_eq!((layer.stats().waiting, layer.stats().in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_429_is_not_the_callers_fault() {
    let calls = Calls::new();
    let layer = PaceLayer::per_caller().requests(Rate::per_minute(60));
    let service = layer.layer(upstream(&calls, |_| answer(429, &[("retry-after", "20")])));
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(ask("a")).await.unwrap().status(), 429);
    }
    assert_eq!(calls.times(), [0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn callers_without_end_share_what_room_there_is() {
    let calls = Calls::new();
    let layer = PaceLayer::per_caller().requests(Rate::per_minute(1)).max_keys(100);
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    let mut served = 0;
    for caller in 0..1_000 {
        let answer = service.clone().oneshot(ask(&format!("caller {caller}"))).await.unwrap();
        served += u32::from(answer.status() == 200);
    }
    // A hundred, and those without a key of their own have one between them.
    assert_eq!((served, layer.stats().keys), (101, 100));
    // Who has a key keeps it, and is limited still.
    assert_eq!(service.clone().oneshot(ask("caller 1")).await.unwrap().status(), 429);
    // A minute later all are as new, and make room.
    tokio::time::sleep(secs(61)).await;
    assert_eq!(service.clone().oneshot(ask("caller 999")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_of_its_own_limits_stays() {
    let calls = Calls::new();
    let theirs = [("x-ratelimit-remaining-requests", "4999"), ("x-ratelimit-reset-tokens", "9ms")];
    let service =
        PaceLayer::per_caller().requests(Rate::per_minute(3)).layer(upstream(&calls, move |_| answer(200, &theirs)));
    let answer = service.oneshot(ask("a")).await.unwrap();
    for (name, value) in theirs {
        assert_eq!(answer.headers()[name], value);
    }
    assert_eq!(answer.headers()["ratelimit"], "\"requests\";r=2;t=20");
}

/// An upstream's limits are for us to keep, and say nothing about a caller.
#[tokio::test(start_paused = true)]
async fn limits_of_the_upstream_are_not_shown() {
    let calls = Calls::new();
    let layer = PaceLayer::new().requests(Rate::per_minute(1)).max_wait(Duration::ZERO);
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    for status in [200, 429] {
        let answer = service.clone().oneshot(ask("a")).await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(!answer.headers().contains_key("ratelimit") && !answer.headers().contains_key("ratelimit-policy"));
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_are_invented_take_no_limit_from_those_that_are_served() {
    let layer = PaceLayer::per_caller().requests(Rate::per_minute(2)).max_keys(100);
    let service = layer.layer(service_fn(|request: Ask| async move {
        let is_invented = Tenant::of(&request).is_some_and(|tenant| tenant.starts_with("invented"));
        Ok::<_, Infallible>(answer(if is_invented { 401 } else { 200 }, &[]))
    }));
    let status = |tenant: String| {
        let call = service.clone().oneshot(ask(&tenant));
        async move { call.await.unwrap().status().as_u16() }
    };
    assert_eq!(status("known".to_owned()).await, 200);
    for caller in 0..1_000 {
        assert_eq!(status(format!("invented {caller}")).await, 401);
    }
    assert_eq!(status("new".to_owned()).await, 200);
    assert_eq!((status("known".to_owned()).await, status("known".to_owned()).await), (200, 429));
    assert!(layer.stats().keys <= 100);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_refuses_no_call_whose_turn_has_come() {
    let end = Arc::new(tokio::sync::Notify::new());
    let upstream = service_fn({
        let end = end.clone();
        move |request: Ask| {
            let end = end.clone();
            async move {
                if request.uri().path() == "/slow" {
                    end.notified().await;
                }
                Ok::<_, Infallible>(answer(200, &[]))
            }
        }
    });
    let service = PaceLayer::per_caller().concurrency(1).max_wait(secs(30)).layer(upstream);
    let mut slow = ask("a");
    *slow.uri_mut() = "http://upstream/slow".parse().unwrap();
    let slow = tokio::spawn({
        let service = service.clone();
        async move { drop(service.oneshot(slow).await.unwrap()) }
    });
    tokio::task::yield_now().await;
    let waits = tokio::spawn(service.clone().oneshot(ask("a")));
    tokio::time::sleep(secs(15)).await;
    stopped_for(secs(21), end).await;
    slow.await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().status(), 200);
}
