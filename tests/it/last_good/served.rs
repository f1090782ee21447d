//! When an earlier answer is returned, and how it is marked.

use std::time::Duration;

use tower_buttress::{
    CircuitBreakerLayer, DeadlineLayer, DedupLayer, Memory, Rejection, RejectionKind, ServedBy, TimeoutProfile, presets,
};

use super::*;
use crate::support::{Log, secs};

#[tokio::test(start_paused = true)]
async fn what_failed_is_answered_with_the_last_whole_answer_and_marked() {
    let (upstream, log) = (Upstream::new(), Arc::new(Log::default()));
    let service = LastGoodLayer::new().observer(log.clone()).layer(upstream.service());
    upstream.set(Does::Answer(
        200,
        vec![("content-type", "application/json"), ("set-cookie", "a=b"), ("age", "5"), ("x-request-id", "1")],
        vec![Step::Data(WHOLE)],
    ));
    assert_eq!(send(&service, ask(QUESTION)).await, (200, None, WHOLE.to_owned()));
    assert!(log.names().is_empty(), "nothing is told on the good path");

    tokio::time::advance(secs(60)).await;
    for failure in [status(503), status(429), status(500), Does::Break] {
        upstream.set(failure.clone());
        let response = service.clone().oneshot(ask(QUESTION)).await.unwrap();
        assert_eq!(response.status(), 200, "{failure:?}");
        assert_eq!(Stale::of(&response), Some(Stale::new(StaleKind::Exact, secs(65))));
        assert_eq!(ServedBy::of(&response), Some("last-good"));
        let headers = response.headers();
        assert_eq!(headers["age"], "65");
        assert_eq!(headers["cache-status"], "buttress; hit; ttl=-65; detail=last-good-exact");
        assert_eq!((&headers["x-request-id"], headers.contains_key("set-cookie")), (&"1".parse().unwrap(), false));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), WHOLE);
    }
    assert_eq!(log.names(), ["stale_served: exact"; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_error_is_returned_to_it() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    send(&service, ask(QUESTION)).await;
    for mistake in [400, 401, 402, 403, 404, 407, 413, 422] {
        upstream.set(status(mistake));
        assert_eq!(send(&service, ask(QUESTION)).await, (mistake, None, "no".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_earlier_answer_the_failure_is_returned() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await, (503, None, "no".to_owned()));
    upstream.set(Does::Break);
    assert!(service.clone().oneshot(ask(QUESTION)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn our_own_refusals_are_no_answer() {
    let upstream = Upstream::new();
    let breaker = CircuitBreakerLayer::new();
    let circuit = breaker.handle();
    let service = LastGoodLayer::new().layer(breaker.layer(upstream.service()));
    let first = service.clone().oneshot(ask(QUESTION)).await.unwrap();
    first.into_body().collect().await.unwrap();
    circuit.open_for(secs(60));
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Exact));
    let other = service.clone().oneshot(ask("{}")).await.unwrap();
    assert_eq!(Rejection::of(&other).map(Rejection::kind), Some(RejectionKind::CircuitOpen));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_from_memory_before_its_deadline() {
    let upstream = Upstream::new();
    let service = DeadlineLayer::new(secs(10)).layer(LastGoodLayer::new().layer(upstream.service()));
    send(&service, ask(QUESTION)).await;
    upstream.set(Does::Hang);
    let start = tokio::time::Instant::now();
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Exact));
    assert_eq!(start.elapsed(), Duration::from_millis(9_750));
    assert_eq!(upstream.alive.load(SeqCst), 0, "the call is dropped");

    // Where there is none, the call has all of its time.
    let start = tokio::time::Instant::now();
    let refused = service.clone().oneshot(ask("{}")).await.unwrap();
    assert_eq!((refused.status().as_u16(), start.elapsed()), (504, secs(10)));
}

#[tokio::test(start_paused = true)]
async fn a_short_call_keeps_most_of_its_time() {
    let upstream = Upstream::new();
    let service = DeadlineLayer::new(Duration::from_millis(200)).layer(LastGoodLayer::new().layer(upstream.service()));
    send(&service, ask(QUESTION)).await;
    upstream.set(Does::Hang);
    let start = tokio::time::Instant::now();
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Exact));
    assert_eq!(start.elapsed(), Duration::from_millis(150));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_is_never_replaced() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    send(&service, ask(QUESTION)).await;
    upstream.set(Does::Answer(
        200,
        vec![("content-type", "application/json")],
        vec![Step::Data("{\"choices\""), Step::Fail("cut")],
    ));
    let response = service.clone().oneshot(ask(QUESTION)).await.unwrap();
    assert_eq!(Stale::of(&response), None);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_answered_by_a_stream() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    let streamed = QUESTION.replace("\"model\"", "\"stream\":true,\"model\"");
    send(&service, ask(QUESTION)).await;
    upstream.set(status(503));
    assert_eq!(send(&service, ask(&streamed)).await.0, 503, "an answer is no stream");

    upstream.set(stream(&[WORD, STOP]));
    send(&service, ask(&streamed)).await;
    upstream.set(status(503));
    let response = service.clone().oneshot(ask(&streamed)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), [WORD, STOP].concat());
    assert_eq!(send(&service, ask(QUESTION)).await.2, WHOLE);
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_kept_neither_by_dedup_nor_by_another_such_layer() {
    let upstream = Upstream::new();
    let inner = LastGoodLayer::new().layer(upstream.service());
    send(&inner, ask(QUESTION)).await;
    let outer = LastGoodLayer::new();
    let service = DedupLayer::new().layer(outer.layer(inner));
    let keyed = || {
        let mut request = ask(QUESTION);
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Exact));
    assert_eq!(send(&service, keyed()).await.1, Some(StaleKind::Exact));
    // What the inner layer returned is in neither of the two around it.
    upstream.set(json(CUT_AT_LIMIT));
    assert_eq!(send(&service, ask(QUESTION)).await, (200, None, CUT_AT_LIMIT.to_owned()));
    assert_eq!(send(&service, keyed()).await, (200, None, CUT_AT_LIMIT.to_owned()));
    let bare = outer.layer(Upstream { does: Arc::new(Mutex::new(status(503))), ..upstream }.service());
    assert_eq!(send(&bare, ask(QUESTION)).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn cache_control_is_obeyed_both_ways() {
    let with = |said: &'static str| {
        let mut request = ask(QUESTION);
        request.headers_mut().insert("cache-control", said.parse().unwrap());
        request
    };
    let answered = |said: &'static str| {
        let headers = vec![("content-type", "application/json"), ("cache-control", said)];
        Does::Answer(200, headers, vec![Step::Data(WHOLE)])
    };
    for (request, answer, after, kept) in [
        ("", "", 3_599, true),
        ("", "", 3_600, false),
        ("", "no-store", 1, false),
        ("", "private", 1, false),
        ("", "no-cache", 1, false),
        ("", "max-age=10, stale-if-error=20", 29, true),
        ("", "max-age=10, stale-if-error=20", 30, false),
        ("", "max-age=10, must-revalidate", 11, false),
        ("no-store", "", 1, false),
    ] {
        let upstream = Upstream::new();
        let service = LastGoodLayer::new().layer(upstream.service());
        upstream.set(answered(answer));
        send(&service, with(request)).await;
        tokio::time::advance(secs(after)).await;
        upstream.set(status(503));
        let stale = send(&service, ask(QUESTION)).await.1;
        assert_eq!(stale.is_some(), kept, "request {request:?}, answer {answer:?}, {after} s later");
    }
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    send(&service, with("no-cache")).await;
    tokio::time::advance(secs(10)).await;
    upstream.set(status(503));
    for (said, taken) in [("no-cache", false), ("no-store", false), ("max-age=9", false), ("max-age=10", true)] {
        assert_eq!(send(&service, with(said)).await.1.is_some(), taken, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_old_hides_no_younger_one_in_another_spelling() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    let spelled = QUESTION.replace("What is the capital of France?", "what is the capital of France");
    let brief = Does::Answer(
        200,
        vec![("content-type", "application/json"), ("cache-control", "stale-if-error=5")],
        vec![Step::Data(WHOLE)],
    );
    send(&service, ask(QUESTION)).await;
    tokio::time::advance(secs(60)).await;
    send(&service, ask(&spelled)).await;
    tokio::time::advance(secs(10)).await;
    upstream.set(status(503));
    let mut fresh = ask(QUESTION);
    fresh.headers_mut().insert("cache-control", "max-age=30".parse().unwrap());
    assert_eq!(send(&service, fresh).await.1, Some(StaleKind::Normalized), "10 s old, the exact one 70");

    // Nor does one whose time is over hide an older one that may be kept for longer.
    upstream.set(brief);
    send(&service, ask(&spelled.replace("France", "France?"))).await;
    tokio::time::advance(secs(6)).await;
    upstream.set(status(503));
    let third = QUESTION.replace("What is", "what is ");
    assert_eq!(send(&service, ask(&third)).await.1, Some(StaleKind::Normalized));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_counts_in_the_stacks_memory() {
    let (upstream, memory) = (Upstream::new(), Memory::new(1024 * 1024));
    let text: &'static str = Box::leak(WHOLE.replace("Paris", &"a".repeat(10_000)).into_boxed_str());
    upstream.set(json(text));
    let layer = LastGoodLayer::new().memory(memory.clone());
    let service = layer.layer(upstream.service());
    send(&service, ask(QUESTION)).await;
    assert!((text.len() + 1..text.len() + 2_048).contains(&memory.used()), "{}", memory.used());
    drop((layer, service));
    assert_eq!(memory.used(), 0);

    let service = LastGoodLayer::new().memory(Memory::new(1_000)).layer(upstream.service());
    assert_eq!(send(&service, ask(QUESTION)).await.2, text, "without memory the answer passes");
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_preset_has_it_where_all_retries_are_spent() {
    let upstream = Upstream::new();
    let stack = presets::llm_gateway(TimeoutProfile::FAST).dedup(|dedup| dedup.fingerprint_window(Duration::ZERO));
    let off = stack.clone().layer(upstream.service());
    let on = stack.last_good(|_| LastGoodLayer::new()).layer(upstream.service());
    for service in [&off, &on] {
        send(service, ask(QUESTION)).await;
    }
    upstream.set(status(503));
    let before = upstream.calls();
    assert_eq!(send(&on, ask(QUESTION)).await, (200, Some(StaleKind::Exact), WHOLE.to_owned()));
    assert_eq!(upstream.calls() - before, 3, "the attempts come first");
    assert_eq!(send(&off, ask(QUESTION)).await.0, 503);
}
