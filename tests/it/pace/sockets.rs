//! A provider over HTTP/2 and HTTP/1.1.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::Layer;

use super::*;

type Seen = Arc<Mutex<Vec<std::time::Instant>>>;

/// Answers the first call with a 429 that names 300 ms.
async fn provider(seen: Seen) -> SocketAddr {
    async fn answer(State(seen): State<Seen>) -> impl IntoResponse {
        let mut seen = seen.lock().unwrap();
        seen.push(std::time::Instant::now());
        if seen.len() == 1 {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after-ms", "300")], "later")
        } else {
            (StatusCode::OK, [("x-served", "yes")], "done")
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(answer)).with_state(seen);
    tokio::spawn(axum::serve(listener, app).into_future());
    at
}

async fn one_429_is_met_by_one_caller(http2: bool) {
    let seen = Seen::default();
    let at = provider(seen.clone()).await;
    let layer = PaceLayer::new();
    let service = layer.layer(Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Empty<Bytes>>());
    let call = move || {
        let (service, request) = (service.clone(), Request::get(format!("http://{at}/")).body(Empty::new()));
        async move {
            let response = service.oneshot(request.unwrap()).await.unwrap();
            let status = response.status().as_u16();
            response.into_body().collect().await.unwrap();
            status
        }
    };
    assert_eq!(call().await, 429);
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        callers.spawn(call());
    }
    assert_eq!(callers.join_all().await, [200; 3]);
    let seen = seen.lock().unwrap();
    let apart: Vec<Duration> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Never earlier than it was told, and then not all at once.
    assert!(apart[0] >= Duration::from_millis(290), "{apart:?}");
    assert!(apart[1..].iter().all(|apart| *apart >= Duration::from_millis(900)), "{apart:?}");
    assert_eq!(layer.stats().waiting, 0);
}

#[tokio::test]
async fn over_http2_one_429_is_met_by_one_caller() {
    one_429_is_met_by_one_caller(true).await;
}

#[tokio::test]
async fn over_http1_one_429_is_met_by_one_caller() {
    one_429_is_met_by_one_caller(false).await;
}

/// Of one connection, on which the calls of several callers come at the same time.
#[tokio::test]
async fn over_http2_each_caller_has_its_own_limits() {
    let layer =
        PaceLayer::per_caller().requests(tower_buttress::Rate::new(2, Duration::from_secs(3_600))).concurrency(2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(async || "done")).layer(layer.clone());
    tokio::spawn(axum::serve(listener, app).into_future());
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Empty<Bytes>>();
    let call = |key: &str| {
        let request = Request::get(format!("http://{at}/")).header("authorization", format!("Bearer {key}"));
        let call = client.request(request.body(Empty::new()).unwrap());
        async move {
            let response = call.await.unwrap();
            let (status, left) = (response.status().as_u16(), response.headers()["ratelimit"].clone());
            response.into_body().collect().await.unwrap();
            (status, left.to_str().unwrap().contains("\"requests\";r=0"))
        }
    };
    assert_eq!((call("leaked").await, call("leaked").await), ((200, false), (200, true)));
    let answers = tokio::join!(call("leaked"), call("other"), call("leaked"));
    assert_eq!(answers, ((429, true), (200, false), (429, true)));
    assert_eq!(layer.stats().in_flight, 0);
}
