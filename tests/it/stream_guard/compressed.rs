//! Upstreams that compress whenever they may, over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request as Asked;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceExt};
use tower_buttress::TimeoutProfile;
use tower_buttress::error::{BoxError, StreamTruncated, UpstreamError, find};
use tower_buttress::presets::{self, ResilienceLayer};
use tower_http::compression::CompressionLayer;

use super::{CHAT, DONE, HELLO, OVERLOADED, STOP};
use crate::support::Log;

const PRESETS: [fn(TimeoutProfile) -> ResilienceLayer; 2] = [presets::llm_client, presets::llm_gateway];
const JOB: &str = "/v1/responses/r?stream=true";

/// Answers what the request's `x-says` names, compressed where its `Accept-Encoding` lets it.
async fn upstream() -> Router {
    let says = async |request: Asked| {
        let says = request.headers().get("x-says").map_or("whole", |says| says.to_str().unwrap()).to_owned();
        let stream = |events: &[&str]| (StatusCode::OK, [("content-type", "text/event-stream")], events.concat());
        let json = |status, body: &str| (status, [("content-type", "application/json")], body.to_owned());
        match says.as_str() {
            "cut" => stream(&[HELLO]),
            "error first" => stream(&[OVERLOADED]),
            "error in json" => json(StatusCode::OK, "{\"error\":{\"message\":\"Bad gateway\",\"code\":502}}"),
            "quota" => json(
                StatusCode::TOO_MANY_REQUESTS,
                "{\"error\":{\"message\":\"You exceeded your quota\",\"code\":\"insufficient_quota\"}}",
            ),
            _ => stream(&[HELLO, STOP, DONE]),
        }
        .into_response()
    };
    let always = |_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| true;
    Router::new()
        .route(CHAT, post(says))
        .route("/v1/responses/r", get(says))
        .layer(CompressionLayer::new().compress_when(always))
}

/// One that compresses although the client does not accept it.
async fn stubborn() -> Router {
    upstream().await.layer(MapRequestLayer::new(|mut request: Asked| {
        request.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip"));
        request
    }))
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// What a client gets that takes gzip, as all SDKs do.
struct Got {
    head: http::response::Parts,
    data: Vec<u8>,
    error: Option<BoxError>,
}

impl Got {
    fn is_compressed(&self) -> bool {
        self.head.headers.contains_key("content-encoding")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.data).unwrap()
    }
}

async fn ask(stack: &ResilienceLayer, addr: SocketAddr, method: Method, path: &str, says: &str) -> Got {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{addr}{path}"))
        .header("accept-encoding", "gzip, deflate")
        .header("accept", "text/event-stream, application/json")
        .header("x-says", says)
        .body(Full::<Bytes>::from("{\"stream\":true}"))
        .unwrap();
    let (head, body) = stack.layer(client).oneshot(request).await.unwrap().into_parts();
    let (mut body, mut data) = (Box::pin(body), Vec::new());
    loop {
        match body.frame().await {
            Some(Ok(frame)) => data.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(err)) => return Got { head, data, error: Some(err) },
            None => return Got { head, data, error: None },
        }
    }
}

#[tokio::test]
async fn it_is_asked_not_to_and_all_is_read() {
    let addr = serve(upstream().await).await;
    // It does compress where it is not asked for `identity`.
    let plain = presets::llm_client(TimeoutProfile::STANDARD).guard(|guard| guard.enabled(false));
    let plain = plain.resume(|resume| resume.enabled(false));
    assert!(ask(&plain, addr, Method::POST, CHAT, "whole").await.is_compressed());
    for preset in PRESETS {
        let stack = preset(TimeoutProfile::STANDARD).retry(|retry| retry.attempts(1));
        let post = async |says: &'static str| {
            let got = ask(&stack, addr, Method::POST, CHAT, says).await;
            assert!(!got.is_compressed(), "{says}");
            got
        };
        let whole = post("whole").await;
        assert_eq!((whole.text(), whole.error.is_none()), (&*[HELLO, STOP, DONE].concat(), true));
        let cut = post("cut").await;
        assert!(cut.text().starts_with(HELLO) && find::<StreamTruncated>(&cut.error.unwrap()).is_some());
        assert_eq!(post("error first").await.head.status, 529);
        assert_eq!(post("error in json").await.head.status, 502);
        let quota = post("quota").await.head;
        assert_eq!(quota.extensions.get::<UpstreamError>().unwrap().code(), Some("insufficient_quota"));
    }
}

#[tokio::test]
async fn a_stream_that_is_fetched_is_read_too() {
    let addr = serve(upstream().await).await;
    for preset in PRESETS {
        let stack = preset(TimeoutProfile::STANDARD).retry(|retry| retry.attempts(1));
        let got = ask(&stack, addr, Method::GET, JOB, "cut").await;
        assert!(!got.is_compressed() && find::<StreamTruncated>(&got.error.unwrap()).is_some());
    }
}

#[tokio::test]
async fn what_is_compressed_nevertheless_passes_with_an_event() {
    let addr = serve(stubborn().await).await;
    for preset in PRESETS {
        for says in ["whole", "cut", "error first", "error in json", "quota"] {
            let log = Arc::new(Log::default());
            let stack = preset(TimeoutProfile::STANDARD).retry(|retry| retry.attempts(1)).observer(log.clone());
            let got = ask(&stack, addr, Method::POST, CHAT, says).await;
            assert!(got.is_compressed() && got.error.is_none(), "{says}");
            assert!(got.data.starts_with(b"\x1f\x8b"), "{says}");
            let told = log.names().contains(&"bypassed: stream-guard".to_owned());
            assert!(told, "{says}: {:?}", log.names());
        }
    }
}
