//! What a 4xx or 5xx says.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower_buttress::StreamGuardLayer;
use tower_buttress::error::UpstreamError;
use tower_buttress::verdict::{Classify, Health, Matter, NextStep, Outcome, Standard, Verdict};

use super::{Answer, CHAT, ask, post, read};
use crate::support::Step::{Data, Fail, Hang, Wait};
use crate::support::secs;

async fn judged(status: u16, body: &'static str) -> Verdict {
    let response = post(CHAT, Answer::json(status, body)).await;
    assert_eq!(response.status(), StatusCode::from_u16(status).unwrap());
    let verdict = Standard::new().classify(&Outcome::head(&response));
    assert_eq!(read(response).await.0, body, "it is handed on as it is");
    verdict
}

#[tokio::test(start_paused = true)]
async fn what_its_body_says_decides() {
    let quota = r#"{"error":{"message":"You exceeded","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    let verdict = judged(429, quota).await;
    assert_eq!(
        (verdict.next, verdict.health, verdict.matter),
        (NextStep::TryAnother, Health::Success, Matter::Credential)
    );
    let too_long = r#"{"error":{"message":"x","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    let verdict = judged(400, too_long).await;
    assert_eq!((verdict.next, verdict.matter), (NextStep::TryAnother, Matter::Request));
    let minute = r#"{"error":{"message":"Please try again in 20s","code":"rate_limit_exceeded"}}"#;
    let after = judged(429, minute).await.retry_after().unwrap();
    assert_eq!(after.wait(std::time::SystemTime::UNIX_EPOCH), secs(20));
    assert_eq!(judged(400, r#"{"error":{"message":"x"}}"#).await.next, NextStep::GiveUp);
    assert_eq!(judged(500, "not json").await.health, Health::Failure);
}

#[tokio::test(start_paused = true)]
async fn when_to_come_back_is_read_from_the_headers_of_limits_whatever_the_body_is() {
    for (method, content_type, body) in [
        (Method::POST, "application/json", Some("{}")),
        (Method::POST, "application/json", None),
        (Method::POST, "text/plain", Some("busy")),
        (Method::GET, "application/json", Some("{\"error\":{\"message\":\"x\"}}")),
    ] {
        for (status, retry_after, waits) in [
            (429, None, Some(secs(20))),
            (503, None, Some(secs(20))),
            (429, Some("3"), Some(secs(3))),
            (400, None, None),
        ] {
            let answer = Answer::of(status, content_type, body.map(Data))
                .header("x-ratelimit-remaining-requests", "0")
                .header("x-ratelimit-reset-requests", "20s");
            let answer = retry_after.into_iter().fold(answer, |answer, value| answer.header("retry-after", value));
            let response = ask(StreamGuardLayer::new(), method.clone(), CHAT, answer).await;
            let hint = Standard::new().classify(&Outcome::head(&response)).retry_after();
            let wait = hint.map(|hint| hint.wait(std::time::SystemTime::UNIX_EPOCH));
            assert_eq!(wait, waits, "{method} {status} {body:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_of_retries_still_wins() {
    let quota = r#"{"error":{"code":"insufficient_quota"}}"#;
    let response = post(CHAT, Answer::json(429, quota).header("x-should-retry", "true")).await;
    let verdict = Standard::new().classify(&Outcome::head(&response));
    assert!(matches!(verdict.next, NextStep::Retry { .. }));
    assert_eq!(verdict.matter, Matter::Credential);
}

#[tokio::test(start_paused = true)]
async fn it_is_read_for_a_second_and_64_kib() {
    let start = Instant::now();
    let response =
        post(CHAT, Answer::of(400, "application/json", [Data("{\"error\":"), Wait(secs(5)), Data("{}}")])).await;
    assert_eq!(start.elapsed(), secs(1));
    assert!(response.extensions().get::<UpstreamError>().is_none());
    assert_eq!(read(response).await.0, "{\"error\":{}}");
    let large = " ".repeat(70_000).leak();
    let response = post(CHAT, Answer::of(400, "application/json", [Data(large), Hang])).await;
    assert_eq!(response.status(), 400);
}

/// Its timer has passed when the process goes on, and is seen before its socket is.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_suspended_reads_what_came_meanwhile() {
    for (came_after, is_read) in [(400, true), (600, false)] {
        let came = [Wait(secs(200)), Wait(Duration::from_millis(came_after))];
        let steps = [Data("{\"error\":")].into_iter().chain(came).chain([Data("{\"code\":\"insufficient_quota\"}}")]);
        let mut call = Box::pin(post(CHAT, Answer::of(429, "application/json", steps)));
        assert!(futures_util::poll!(&mut call).is_pending());
        tokio::time::advance(secs(200)).await;
        assert_eq!(call.await.extensions().get::<UpstreamError>().is_some(), is_read);
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_body_fails_is_an_answer_still() {
    let response = post(CHAT, Answer::of(400, "application/json", [Data("{\"error\":"), Fail("reset")])).await;
    assert_eq!(response.status(), 400);
    let (text, error) = read(response).await;
    assert_eq!((text.as_str(), error.is_some()), ("{\"error\":", true));
}

#[tokio::test(start_paused = true)]
async fn others_are_not_read() {
    let answer = || Answer::of(429, "application/json", [Data("{\"error\":{\"code\":\"insufficient_quota\"}}"), Hang]);
    for (method, answer) in [(Method::GET, answer()), (Method::POST, answer().header("content-encoding", "gzip"))] {
        let response = ask(StreamGuardLayer::new(), method, CHAT, answer).await;
        assert!(response.extensions().get::<UpstreamError>().is_none());
    }
}

#[tokio::test]
async fn one_that_breaks_off_is_not_whole_to_a_client() {
    let app = Router::new().fallback(async || {
        let cut = Answer::of(400, "application/json", [Data("{\"error\":{\"mess"), Fail("reset")]);
        post(CHAT, cut).await.map(axum::body::Body::new)
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    // hyper may not even have sent the head when it meets the error.
    let is_whole = match client.get(url.parse().unwrap()).await {
        Ok(answer) => answer.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    assert!(!is_whole, "the connection is broken as the upstream's was");
}
