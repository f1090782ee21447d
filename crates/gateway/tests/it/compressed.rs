//! Upstreams that compress whenever they may.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request as Asked;
use axum::routing::post;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tower::util::MapRequestLayer;
use tower_http::compression::CompressionLayer;

use super::client::{ask, chat, full, read};
use super::{Running, gateway_before};

const HELLO: &str =
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";

/// A stream that is cut after its first event, compressed if the client's `Accept-Encoding` allows it.
fn upstream() -> Router {
    let cut = async || ([("content-type", "text/event-stream")], HELLO);
    let always = |_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| true;
    Router::new().route("/v1/chat/completions", post(cut)).layer(CompressionLayer::new().compress_when(always))
}

/// An upstream that compresses although the client does not accept it.
fn stubborn() -> Router {
    upstream().layer(MapRequestLayer::new(|mut request: Asked| {
        request.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip"));
        request
    }))
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// All SDKs accept gzip.
async fn asked(gateway: &Running) -> Response<Incoming> {
    let mut request = chat(gateway.addr, true, "");
    request.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip, deflate"));
    ask(request).await
}

#[tokio::test]
async fn an_upstream_is_asked_not_to_so_that_the_guard_reads_all() {
    let gateway = gateway_before(serve(upstream()).await).await;
    let answer = asked(&gateway).await;
    assert!(!answer.headers().contains_key("content-encoding"));
    let (events, whole) = read(answer.into_body()).await;
    assert!(events.starts_with(HELLO) && events.contains("stream_truncated") && !whole, "{events}");
}

#[tokio::test]
async fn what_is_compressed_nevertheless_passes_and_is_counted() {
    let gateway = gateway_before(serve(stubborn()).await).await;
    let answer = asked(&gateway).await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let data = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(data.starts_with(b"\x1f\x8b"));
    let request = Request::get(format!("http://{}/-/metrics", gateway.addr)).body(full("")).unwrap();
    let (figures, _) = read(ask(request).await.into_body()).await;
    assert!(figures.contains("tower_buttress_events_total{event=\"bypassed\",detail=\"stream-guard\""), "{figures}");
}
