//! Retries and fallbacks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request as AxumRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::client::{Outgoing, ask, chat, full, read};
use super::{Running, gateway};
use crate::support::secs;

/// The headers that tell how the answer came about.
fn provenance<B>(answer: &Response<B>) -> (u16, &str, &str) {
    let header = |name| answer.headers()[name].to_str().unwrap();
    (answer.status().as_u16(), header("x-gateway-attempts"), header("x-gateway-served-by"))
}

async fn ask_for(gateway: &Running, fault: &str) -> Response<Incoming> {
    ask(chat(gateway.addr, true, fault)).await
}

/// A second upstream that answers with `status`, and the requests that it received.
pub(super) async fn backup(status: StatusCode) -> (String, Arc<Mutex<Vec<(HeaderMap, serde_json::Value)>>>) {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let sent = seen.clone();
    let router = Router::new().fallback(move |request: AxumRequest| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        sent.lock().unwrap().push((head.headers, serde_json::from_slice(&body).unwrap()));
        (status, "from the backup")
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (format!("http://{addr}"), seen)
}

#[tokio::test]
async fn retry_after_is_obeyed_and_not_anticipated() {
    let gateway = gateway(&[]).await;
    let asked = Instant::now();
    let answer = ask_for(&gateway, "status=429; retry-after=2; times=1").await;
    assert!(asked.elapsed() >= secs(2));
    assert_eq!(provenance(&answer), (200, "2", "upstream"));
    assert!(read(answer.into_body()).await.1);
    assert_eq!(gateway.provider().counts().calls, 2);
}

#[tokio::test]
async fn what_may_pass_is_attempted_again() {
    let gateway = gateway(&["--backoff-base", "5ms"]).await;
    for (calls, fault) in [(3, "status=529; times=2"), (5, "reset; times=1"), (8, "status=500; times=2")] {
        let answer = ask_for(&gateway, fault).await;
        assert_eq!(answer.status(), StatusCode::OK, "{fault}");
        assert!(read(answer.into_body()).await.1);
        assert_eq!(gateway.provider().counts().calls, calls, "{fault}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_attempted_again_and_then_a_502() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = gateway(&["--upstream", &format!("http://{closed}"), "--backoff-base", "5ms"]).await;
    assert_eq!(ask_for(&gateway, "").await.status(), StatusCode::BAD_GATEWAY);
    let metrics = Request::get(format!("http://{}/-/metrics", gateway.addr)).body(full("")).unwrap();
    let metrics = read(ask(metrics).await.into_body()).await.0;
    let retries = metrics.lines().find(|line| line.contains("event=\"retry_scheduled\"")).unwrap_or_default();
    // The metrics count all gateways in this process: at least the two attempts of this one.
    assert!(retries.rsplit(' ').next().unwrap().parse::<u32>().unwrap() >= 2, "{metrics}");
}

#[tokio::test]
async fn what_will_not_pass_is_answered_at_once() {
    let gateway = gateway(&["--pace", "off"]).await;
    let answer = ask_for(&gateway, "status=400").await;
    assert_eq!(provenance(&answer), (400, "1", "upstream"));
    // A wait that is too long, or a forbidden retry: the answer is passed on unchanged.
    let answer = ask_for(&gateway, "status=429; retry-after=61").await;
    assert_eq!(
        (provenance(&answer), &answer.headers()["retry-after"]),
        ((429, "1", "upstream"), &"61".parse().unwrap())
    );
    let answer = ask_for(&gateway, "status=503; should-retry=false").await;
    assert_eq!(provenance(&answer), (503, "1", "upstream"));
    assert_eq!(gateway.provider().counts().calls, 3);
}

#[tokio::test]
async fn when_attempts_are_spent_the_response_says_not_to_retry() {
    let gateway = gateway(&["--backoff-base", "5ms"]).await;
    let answer = ask_for(&gateway, "status=503").await;
    assert_eq!(
        (provenance(&answer), &answer.headers()["x-should-retry"]),
        ((503, "3", "upstream"), &"false".parse().unwrap())
    );
    assert_eq!(gateway.provider().counts().calls, 3);
}

#[tokio::test]
async fn every_end_of_the_attempts_says_so() {
    let (full, _full) = crate::support::full_backlog().await;
    let full = format!("http://{full}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    // Far apart, so that the test sees which of them ends the attempt.
    let quick = ["--backoff-base", "5ms", "--first-byte-timeout", "1s", "--connect-timeout", "100ms"];
    for (upstream, fault, status, attempts, served_by) in [
        (None, "reset", 502, "3", "gateway"),
        (Some(&closed), "", 502, "3", "gateway"),
        // Another attempt at the same upstream would not help.
        (None, "silent", 504, "1", "gateway"),
        (Some(&full), "", 502, "1", "gateway"),
        (None, "status=500", 500, "3", "upstream"),
        // The part of a stream before its content.
        (None, "error-after=0", 500, "3", "upstream"),
        (None, "truncate-after=0", 502, "3", "gateway"),
    ] {
        let upstream: Vec<&str> = upstream.into_iter().flat_map(|url| ["--upstream", url]).collect();
        let gateway = gateway(&[&upstream[..], &quick].concat()).await;
        let answer = ask_for(&gateway, fault).await;
        assert_eq!(provenance(&answer), (status, attempts, served_by), "{fault}");
        assert_eq!(answer.headers()["x-should-retry"], "false", "{fault}");
    }
    let gateway = gateway(&["--deadline", "100ms"]).await;
    let answer = ask_for(&gateway, "silent").await;
    assert_eq!(
        (provenance(&answer), &answer.headers()["x-should-retry"]),
        ((504, "1", "gateway"), &"false".parse().unwrap())
    );
}

#[tokio::test]
async fn those_who_joined_a_call_learn_the_same_of_its_end() {
    // The second request comes while the first is in its attempts.
    let gateway = gateway(&["--backoff-base", "300ms", "--first-byte-timeout", "1s"]).await;
    for (fault, status, attempts, calls) in [("reset", 502, "3", 3), ("silent", 504, "1", 4)] {
        let joins = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ask(with_credentials(&gateway, fault)).await
        };
        let (leads, joins) = tokio::join!(ask(with_credentials(&gateway, fault)), joins);
        for answer in [leads, joins] {
            assert_eq!(provenance(&answer), (status, attempts, "gateway"), "{fault}");
            assert_eq!(answer.headers()["x-should-retry"], "false", "{fault}");
        }
        assert_eq!(gateway.provider().counts().calls, calls, "{fault}: not joined");
    }
}

#[tokio::test]
async fn one_who_joined_a_call_and_has_less_time_learns_of_its_attempts() {
    let gateway = gateway(&["--first-byte-timeout", "1s"]).await;
    let joins = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut joins = with_credentials(&gateway, "silent");
        joins.headers_mut().insert("x-deadline-ms", "300".parse().unwrap());
        ask(joins).await
    };
    let (_, joins) = tokio::join!(ask(with_credentials(&gateway, "silent")), joins);
    assert_eq!(provenance(&joins), (504, "1", "gateway"));
    assert_eq!(joins.headers()["x-should-retry"], "false");
    assert_eq!(gateway.provider().counts().calls, 1, "not joined");
}

#[tokio::test]
async fn a_refusal_before_any_upstream_call_says_so() {
    let gateway = gateway(&["--attempts", "1", "--breaker-consecutive", "1"]).await;
    let mut late = chat(gateway.addr, true, "");
    late.headers_mut().insert("x-deadline-ms", "1".parse().unwrap());
    assert_eq!(ask_for(&gateway, "status=500").await.status(), 500);
    for (request, status) in [(late, 504), (chat(gateway.addr, true, ""), 503)] {
        let answer = ask(request).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-gateway-served-by"]),
            (status, &"gateway".parse().unwrap())
        );
        for absent in ["x-gateway-attempts", "x-should-retry"] {
            assert!(!answer.headers().contains_key(absent), "{status} {absent}");
        }
    }
}

#[tokio::test]
async fn a_post_that_may_have_been_done_is_not_repeated_where_that_was_said() {
    let gateway = gateway(&["--retry-non-idempotent", "false", "--backoff-base", "5ms"]).await;
    assert_eq!(provenance(&ask_for(&gateway, "status=500").await), (500, "1", "upstream"));
    assert_eq!(provenance(&ask_for(&gateway, "status=503; retry-after=0; times=1").await), (200, "2", "upstream"));
}

/// A chat request with credentials for the upstream only.
fn with_credentials(gateway: &Running, fault: &'static str) -> Request<Outgoing> {
    let mut request: Request<Outgoing> = chat(gateway.addr, true, fault);
    request.headers_mut().insert("authorization", "Bearer for-the-upstream-only".parse().unwrap());
    request.headers_mut().insert("x-api-key", "for-the-upstream-only".parse().unwrap());
    request
}

#[tokio::test]
async fn a_silent_upstream_goes_to_the_fallback_after_one_timeout_and_without_credentials() {
    let (url, seen) = backup(StatusCode::OK).await;
    let fallback = ["--fallback", &url, "--fallback-model", "small", "--first-byte-timeout", "100ms"];
    let gateway = gateway(&fallback).await;
    let answer = ask(with_credentials(&gateway, "silent")).await;
    assert_eq!(provenance(&answer), (200, "1", "fallback"));
    assert_eq!(read(answer.into_body()).await.0, "from the backup");
    assert_eq!(gateway.provider().counts().calls, 1);
    let seen = seen.lock().unwrap();
    let [(headers, body)] = &seen[..] else { panic!("{seen:?}") };
    assert!(!format!("{headers:?}").contains("for-the-upstream-only"));
    assert_eq!((&body["model"], &body["stream"]), (&"small".into(), &true.into()));
}

/// Callers bring their own credentials; a refused one concerns only its caller.
#[tokio::test]
async fn the_operators_credential_does_not_serve_a_caller_whose_own_was_refused() {
    let (url, seen) = backup(StatusCode::OK).await;
    // A variable that always exists.
    let credential = ["--fallback-authorization-env", "CARGO_PKG_NAME", "--trust-callers"];
    let fallback = ["--fallback", &url, "--attempts", "1", "--first-byte-timeout", "100ms", "--dedup", "off"];
    let gateway = gateway(&[&fallback[..], &credential[..]].concat()).await;
    for (fault, status) in [("status=401", 401), ("status=402", 402), ("status=403", 403), ("status=429", 429)] {
        assert_eq!(provenance(&ask(with_credentials(&gateway, fault)).await), (status, "1", "upstream"), "{fault}");
        assert!(seen.lock().unwrap().is_empty());
    }
    for fault in ["status=500", "silent"] {
        assert_eq!(provenance(&ask(with_credentials(&gateway, fault)).await), (200, "1", "fallback"), "{fault}");
    }
    for (headers, _) in &*seen.lock().unwrap() {
        assert_eq!(headers["authorization"], env!("CARGO_PKG_NAME"));
        assert!(!format!("{headers:?}").contains("for-the-upstream-only"));
    }
}

#[tokio::test]
async fn a_replay_says_who_served_it() {
    let (url, seen) = backup(StatusCode::OK).await;
    let gateway = gateway(&["--fallback", &url, "--attempts", "2", "--backoff-base", "5ms"]).await;
    for role in ["leader", "replayed"] {
        let mut request = with_credentials(&gateway, "status=500");
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        let answer = ask(request).await;
        assert_eq!(provenance(&answer), (200, "1", "fallback"), "{role}");
        assert_eq!(answer.headers()["x-gateway-dedup"], role);
        assert!(read(answer.into_body()).await.1);
    }
    assert_eq!((gateway.provider().counts().calls, seen.lock().unwrap().len()), (2, 1));
}

#[tokio::test]
async fn attempts_come_before_the_fallback() {
    let (url, seen) = backup(StatusCode::OK).await;
    let gateway = gateway(&["--fallback", &url, "--backoff-base", "5ms"]).await;
    assert_eq!(provenance(&ask_for(&gateway, "status=503").await), (200, "1", "fallback"));
    assert_eq!(gateway.provider().counts().calls, 3);
    // An invalid request is invalid at every upstream.
    assert_eq!(provenance(&ask_for(&gateway, "status=400").await), (400, "1", "upstream"));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn when_the_fallback_fails_too_the_first_answer_counts() {
    let (url, seen) = backup(StatusCode::INTERNAL_SERVER_ERROR).await;
    let gateway = gateway(&["--fallback", &url, "--attempts", "1"]).await;
    assert_eq!(provenance(&ask_for(&gateway, "status=503").await), (503, "1", "upstream"));
    assert_eq!(seen.lock().unwrap().len(), 1);
}
