//! Limits of calls to an upstream, and of each caller.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::client::{Outgoing, ask, chat, read};
use super::trust::keys;
use super::{Running, gateway, soon};
use crate::support::secs;

fn of(gateway: &Running, key: &str, stream: bool, fault: &str) -> Request<Outgoing> {
    let mut request = chat(gateway.addr, stream, fault);
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

fn status_and_source(answer: &Response<Incoming>) -> (u16, &str) {
    let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
    (answer.status().as_u16(), header("x-gateway-served-by"))
}

async fn kind(answer: Response<Incoming>) -> String {
    let problem: serde_json::Value = serde_json::from_str(&read(answer.into_body()).await.0).unwrap();
    problem["kind"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_429_has_others_with_the_same_key_wait_too() {
    let gateway = gateway(&["--attempts", "1", "--dedup", "off"]).await;
    let refused = ask(of(&gateway, "one", false, "status=429; retry-after=2")).await;
    assert_eq!(status_and_source(&refused), (429, "upstream"));
    let asked = Instant::now();
    // Another key, and another model of the same key, are not limited.
    assert_eq!(ask(of(&gateway, "two", false, "")).await.status(), StatusCode::OK);
    let other_model = of(&gateway, "one", false, "")
        .map(|_| super::client::full(r#"{"model":"other","messages":[{"role":"user","content":"Hello"}]}"#));
    assert_eq!(ask(other_model).await.status(), StatusCode::OK);
    assert!(asked.elapsed() < secs(1), "{:?}", asked.elapsed());
    assert_eq!(ask(of(&gateway, "one", false, "")).await.status(), StatusCode::OK);
    assert!(asked.elapsed() > Duration::from_millis(1_500), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_429_that_pauses_nothing_is_one_callers_only() {
    let gateway = gateway(&["--attempts", "1", "--dedup", "off", "--pace", "off"]).await;
    assert_eq!(
        status_and_source(&ask(of(&gateway, "one", false, "status=429; retry-after=60")).await),
        (429, "upstream")
    );
    assert_eq!(ask(of(&gateway, "one", false, "")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_rate_of_ones_own_is_never_overrun() {
    let gateway = gateway(&["--attempts", "1", "--dedup", "off", "--pace-requests", "10/1s"]).await;
    let asked = Instant::now();
    let answers = join_all((0..6).map(|_| ask(of(&gateway, "one", false, "")))).await;
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
    // The first at once, then one per 0.1 s.
    assert!(asked.elapsed() >= Duration::from_millis(500), "{:?}", asked.elapsed());

    // The wait would exceed the limit.
    let mut late = of(&gateway, "one", false, "");
    late.headers_mut().insert("x-deadline-ms", "90".parse().unwrap());
    let waits = join_all((0..5).map(|_| ask(of(&gateway, "one", false, ""))));
    let refused = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        ask(late).await
    };
    let (answers, refused) = tokio::join!(waits, refused);
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
    assert_eq!(status_and_source(&refused), (429, "gateway"));
    assert_eq!(
        (&refused.headers()["retry-after"], kind_of(&refused)),
        (&"1".parse().unwrap(), "application/problem+json")
    );
    assert_eq!(kind(refused).await, "paced");
}

fn kind_of(answer: &Response<Incoming>) -> &str {
    answer.headers()["content-type"].to_str().unwrap()
}

#[tokio::test]
async fn tokens_of_ones_own_are_never_overrun() {
    let gateway = gateway(&["--attempts", "1", "--dedup", "off", "--pace-tokens", "100/1h"]).await;
    // Its usage reports more tokens than the limit.
    assert!(read(ask(of(&gateway, "one", false, "chunks=200")).await.into_body()).await.1);
    let refused = ask(of(&gateway, "one", false, "")).await;
    assert_eq!(status_and_source(&refused), (429, "gateway"));
    assert_eq!(kind(refused).await, "paced");
    assert_eq!(ask(of(&gateway, "two", false, "")).await.status(), StatusCode::OK, "limits are those of a credential");
    assert_eq!(gateway.provider().counts().calls, 2);
}

/// Six hundred requests a minute, of which none is left.
async fn says_its_limits() -> ([(&'static str, &'static str); 3], &'static str) {
    let limits = [
        ("x-ratelimit-limit-requests", "600"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "60.0s"),
    ];
    (limits, "{}")
}

#[tokio::test]
async fn an_upstreams_limits_are_learned_where_that_is_wanted() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(says_its_limits)).into_future());
    for (pace, learns) in [("learn", true), ("pause", false)] {
        let options = ["--upstream", &upstream, "--attempts", "1", "--dedup", "off", "--pace", pace];
        let gateway = gateway(&options).await;
        assert_eq!(ask(of(&gateway, "one", false, "")).await.status(), StatusCode::OK);
        let asked = Instant::now();
        let answers = join_all((0..4).map(|_| ask(of(&gateway, "one", false, "")))).await;
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
        // 0.1 s each.
        assert_eq!(asked.elapsed() >= Duration::from_millis(350), learns, "{:?}", asked.elapsed());
    }
}

/// Calls without callers do not keep waiting calls out.
#[tokio::test]
async fn a_quarter_of_the_places_is_for_calls_without_callers() {
    // The adaptive limit starts with eight, too.
    for places in ["8", "auto"] {
        let options = ["--resumable", "on", "--dedup-grace", "100ms", "--concurrency", places, "--attempts", "1"];
        let gateway = gateway(&options).await;
        for key in ["a", "b", "c", "d"] {
            let mut request = of(&gateway, key, true, "gap=0s; stall-after=1");
            request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
            let answer = ask(request).await;
            assert!(answer.headers().contains_key("content-location"));
            drop(answer);
        }
        gateway.abandoned_of(2, 2).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gateway.provider().counts().open, 2, "{places}");
    }
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_there_are_places() {
    let options = ["--attempts", "1", "--dedup", "off", "--concurrency", "1", "--queue", "1"];
    let gateway = gateway(&options).await;
    // A stream holds its place to its end.
    let first = ask(of(&gateway, "one", true, "gap=20ms; chunks=25")).await;
    assert_eq!(first.status(), StatusCode::OK);
    let second = tokio::spawn(ask(of(&gateway, "one", false, "")));
    soon(async {
        while gateway.provider().counts().open == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gateway.provider().counts().calls, 1, "the second waits");
    let third = ask(of(&gateway, "one", false, "")).await;
    assert_eq!(status_and_source(&third), (503, "gateway"));
    assert!(third.headers().contains_key("retry-after"));
    assert_eq!(kind(third).await, "queue-full");
    assert!(read(first.into_body()).await.1);
    assert_eq!(soon(second).await.unwrap().status(), StatusCode::OK);
    assert_eq!(gateway.provider().counts().calls, 2);
}

#[tokio::test]
async fn no_call_waits_longer_for_a_place_than_the_queue_allows() {
    let options = ["--attempts", "1", "--dedup", "off", "--concurrency", "1", "--queue-wait", "100ms"];
    let gateway = gateway(&options).await;
    let first = ask(of(&gateway, "one", true, "gap=0s; stall-after=1")).await;
    let asked = Instant::now();
    assert_eq!(kind(ask(of(&gateway, "one", false, "")).await).await, "queue-full");
    assert!(asked.elapsed() < secs(5), "{:?}", asked.elapsed());
    drop(first);
}

#[tokio::test]
async fn the_concurrency_that_an_upstream_sustains_is_found() {
    let gateway = gateway(&["--attempts", "1", "--dedup", "off", "--concurrency", "auto", "--breaker", "off"]).await;
    let page = Request::get(format!("http://{}/-/events", gateway.addr)).body(super::client::full("")).unwrap();
    let events = ask(page).await.into_body();
    for _ in 0..3 {
        assert_eq!(ask(of(&gateway, "one", false, "status=503")).await.status(), 503);
    }
    let changed = soon(async {
        use http_body_util::BodyExt;
        let mut events = events;
        let mut text = String::new();
        while !text.contains("concurrency_changed") {
            text.push_str(&String::from_utf8_lossy(events.frame().await.unwrap().unwrap().data_ref().unwrap()));
        }
        text
    })
    .await;
    assert!(changed.contains("queue: 7 calls at a time"), "{changed}");
}

#[tokio::test]
async fn no_caller_can_send_more_than_its_share() {
    let keys = keys();
    let limits = ["--caller-keys-file", &keys, "--caller-requests", "2/1h", "--caller-concurrency", "1"];
    let gateway = gateway(&[&limits[..], &["--dedup", "off"]].concat()).await;
    let answer = ask(of(&gateway, "acme-key", false, "")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("ratelimit") && answer.headers().contains_key("ratelimit-policy"));
    drop(answer);
    let stream = ask(of(&gateway, "acme-key", true, "gap=0s; stall-after=1")).await;
    assert_eq!(stream.status(), StatusCode::OK);
    for _ in 0..2 {
        let refused = ask(of(&gateway, "acme-key", false, "")).await;
        assert_eq!(status_and_source(&refused), (429, "gateway"));
        assert_eq!(kind(refused).await, "paced");
    }
    // Another caller has its own limits.
    let other = ask(of(&gateway, "other-key", true, "gap=0s; stall-after=1")).await;
    assert_eq!(other.status(), StatusCode::OK);
    // One call at a time, though another request is allowed.
    assert_eq!(ask(of(&gateway, "other-key", false, "")).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(gateway.provider().counts().calls, 3);
}

/// More callers than a layer has limits for unidentified ones.
#[tokio::test]
async fn each_of_many_callers_has_a_limit_of_its_own() {
    let keys: Vec<_> = (0..1_100).map(|tenant| format!("tenant-{tenant}:key-{tenant}")).collect();
    let file = format!("{}/many-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, keys.join("\n")).unwrap();
    let limits = ["--caller-keys-file", &file, "--caller-requests", "1/24h", "--dedup", "off"];
    let gateway = gateway(&limits).await;
    for tenant in 0..1_100 {
        let answer = ask(of(&gateway, &format!("key-{tenant}"), false, "")).await;
        assert_eq!(answer.status(), StatusCode::OK, "{tenant}");
    }
    assert_eq!(ask(of(&gateway, "key-7", false, "")).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn tokens_of_a_caller_are_counted_when_they_are_used() {
    let keys = keys();
    let gateway = gateway(&["--caller-keys-file", &keys, "--caller-tokens", "100/1h", "--dedup", "off"]).await;
    // Its usage reports more tokens than are left.
    let answer = ask(of(&gateway, "acme-key", false, "chunks=200")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(read(answer.into_body()).await.1);
    assert_eq!(kind(ask(of(&gateway, "acme-key", false, "")).await).await, "paced");
    assert_eq!(ask(of(&gateway, "other-key", false, "")).await.status(), StatusCode::OK);
}
