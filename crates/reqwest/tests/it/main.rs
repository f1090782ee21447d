//! reqwest's client under the layers, before real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[cfg(feature = "reqwest-middleware")]
mod middleware;
#[allow(dead_code, reason = "shared with the tests of other crates")]
#[path = "../../../../tests/it/support/mod.rs"]
mod support;
mod verdicts;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body::Frame;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_buttress::error::{self, IdleBodyElapsed};
use tower_buttress::{
    Attempts, CircuitBreakerLayer, CircuitState, Event, FallbackLayer, IdleBodyTimeoutLayer, NotRetried,
    RetryAfterBackoffLayer, ServedBy, TimeoutProfile, presets,
};
use tower_buttress_reqwest::ClientService;

use crate::support::{Alive, Log, trailers};

async fn server(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

fn client() -> ClientService {
    ClientService::new(reqwest::Client::new())
}

/// An endless stream, and whether it is being sent.
async fn endless() -> (String, Alive) {
    let alive = Alive::default();
    let streams = alive.clone();
    let ticks = move || async move {
        Body::from_stream(stream::unfold(streams.enter(), |living| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, Infallible>("data: a\n\n"), living))
        }))
    };
    (server(Router::new().route("/", get(ticks))).await, alive)
}

#[tokio::test]
async fn it_streams_in_both_directions_at_once() {
    // Each piece is answered before the next is sent.
    let url = server(Router::new().route("/", post(|body: Body| async { body }))).await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let request = Request::post(url).body(body).unwrap();
    sender.send_data("one".into()).await.unwrap();
    let mut body = client().oneshot(request).await.unwrap().into_body();
    for (heard, next) in [("one", Some("two")), ("two", Some("three")), ("three", None)] {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), heard);
        if let Some(next) = next {
            sender.send_data(next.into()).await.unwrap();
        }
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn heads_pass_in_both_directions_and_empty_bodies_are_none() {
    let answer = |headers: HeaderMap| async move {
        assert!(!headers.contains_key("transfer-encoding") && headers["x-asked"] == "yes");
        (StatusCode::IM_A_TEAPOT, [("x-answered", "yes")])
    };
    let url = server(Router::new().route("/", any(answer))).await;
    let request = Request::get(url).header("x-asked", "yes").body(Empty::<Bytes>::new()).unwrap();
    let response = client().oneshot(request).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["x-answered"]),
        (StatusCode::IM_A_TEAPOT, &"yes".parse().unwrap())
    );
}

#[tokio::test]
async fn a_download_that_is_dropped_closes_the_connection() {
    let (url, alive) = endless().await;
    let mut body = client().oneshot(Request::get(url).body(Empty::<Bytes>::new()).unwrap()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    alive.is(1).await;
    drop(body);
    alive.is(0).await;
}

#[tokio::test]
async fn its_errors_are_understood() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let log = Arc::new(Log::default());
    let retry = RetryAfterBackoffLayer::new().backoff_base(Duration::from_millis(1)).observer(log.clone());
    let request = Request::post(format!("http://{closed}/")).body(Full::<Bytes>::from("x")).unwrap();
    let err = retry.layer(client()).oneshot(request).await.unwrap_err();
    assert!(err.is_connect(), "{err:?}");
    // Where no connection came about nothing was done: even a POST is repeated.
    assert!(matches!(log.events().last(), Some(Event::NotRetried { reason: NotRetried::AttemptsSpent, .. })));

    let wrong = Request::get("/no/host").body(Empty::<Bytes>::new()).unwrap();
    assert!(client().oneshot(wrong).await.unwrap_err().is_builder());
}

#[tokio::test]
async fn what_was_never_a_request_is_no_fault_of_the_upstream() {
    let log = Arc::new(Log::default());
    let breaker = CircuitBreakerLayer::new();
    let service = ServiceBuilder::new()
        .layer(RetryAfterBackoffLayer::new().observer(log.clone()))
        .layer(breaker.clone())
        .service(client());
    for _ in 0..6 {
        let wrong = Request::get("/no/host").body(Empty::<Bytes>::new()).unwrap();
        assert!(service.clone().oneshot(wrong).await.unwrap_err().is_builder());
    }
    assert_eq!((log.names().len(), breaker.handle().state()), (0, CircuitState::Closed));
}

#[tokio::test]
async fn a_request_that_came_over_another_version_goes_out() {
    let url = server(Router::new().route("/", get(|| async { "here" }))).await;
    let request = Request::get(url).version(http::Version::HTTP_2).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(client().oneshot(request).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_that_stalls_is_ended_by_the_layer() {
    let stalls =
        || async { Body::from_stream(stream::iter([Ok::<_, Infallible>("data: a\n\n")]).chain(stream::pending())) };
    let url = server(Router::new().route("/", get(stalls))).await;
    let service = ServiceBuilder::new().layer(IdleBodyTimeoutLayer::new(Duration::from_millis(50))).service(client());
    let response = service.oneshot(Request::get(url).body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let err = response.into_body().collect().await.unwrap_err();
    assert!(error::find::<IdleBodyElapsed>(&err).is_some(), "{err}");
}

#[tokio::test]
async fn a_whole_stack_goes_around_it() {
    let calls = Arc::<AtomicU32>::default();
    let counted = calls.clone();
    let flaky = move |body: String| {
        let nth = counted.fetch_add(1, SeqCst);
        async move { if nth == 0 { Err(StatusCode::BAD_GATEWAY) } else { Ok(body) } }
    };
    let down = server(Router::new().route("/", post(|| async { StatusCode::UNAUTHORIZED }))).await;
    let url = server(Router::new().route("/", post(flaky))).await;
    let stack = presets::llm_gateway(TimeoutProfile::STANDARD)
        .retry(|retry| retry.backoff_base(Duration::from_millis(1)))
        .fallback(FallbackLayer::new(client()));
    let service = stack.layer(client());
    let ask =
        |url: &str| Request::post(url).header("authorization", "Bearer a").body(Full::<Bytes>::from("hello")).unwrap();
    let response = service.clone().oneshot(ask(&url)).await.unwrap();
    assert_eq!((response.status(), Attempts::of(&response)), (StatusCode::OK, Attempts(2)));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");

    // The backup is the same client, and is told the same.
    let response = service.oneshot(ask(&down)).await.unwrap();
    assert_eq!((response.status(), ServedBy::of(&response)), (StatusCode::UNAUTHORIZED, None));
}

#[tokio::test]
async fn another_provider_answers_in_its_place() {
    let down = server(Router::new().route("/v1", post(|| async { StatusCode::UNAUTHORIZED }))).await;
    let up = server(Router::new().route("/v1", post(|body: String| async { body }))).await;
    let backup = ServiceBuilder::new()
        .map_request(move |mut request: Request<_>| {
            *request.uri_mut() = format!("{up}{}", request.uri().path()).parse().unwrap();
            request
        })
        .service(client());
    let stack = presets::llm_client(TimeoutProfile::STANDARD)
        .fallback(FallbackLayer::new(backup).name("other").own_credentials(true));
    let request = Request::post(format!("{down}/v1")).body(Full::<Bytes>::from("hello")).unwrap();
    let response = stack.layer(client()).oneshot(request).await.unwrap();
    assert_eq!((response.status(), ServedBy::of(&response)), (StatusCode::OK, Some("other")));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn trailers_and_the_version_are_those_of_the_upstream() {
    let trailed = |request: axum::extract::Request| async {
        let collected = request.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers()), "of the request");
        let frames = [Ok::<_, Infallible>(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers()))];
        Body::new(StreamBody::new(stream::iter(frames)))
    };
    let url = server(Router::new().route("/", post(trailed))).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let service = presets::http_client(TimeoutProfile::STANDARD).layer(ClientService::new(http2));
    let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("hello"))), Ok(Frame::trailers(trailers()))];
    let request = Request::post(url).body(StreamBody::new(stream::iter(frames))).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers()));
    assert_eq!(collected.to_bytes(), "hello");
}
