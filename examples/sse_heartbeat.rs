//! Keeps the stream of a silent model alive through proxies, on an axum server.
//!
//! ```sh
//! cargo run --example sse_heartbeat
//! ```

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_buttress::SseHeartbeatLayer;
use tower_buttress::error::BoxError;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let thinks = || async {
        let events = stream::iter(["data: let me think\n\n", "data: 42\n\n"]).then(|event| async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<_, BoxError>(event)
        });
        ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events))
    };
    // 15 s in production.
    let app = Router::new().route("/", get(thinks)).layer(SseHeartbeatLayer::new(Duration::from_millis(200)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());

    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut body = client.request(Request::get(url).body(Empty::<Bytes>::new())?).await?.into_body();
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        let data = frame?.into_data().unwrap_or_default();
        print!("{}", String::from_utf8_lossy(&data));
        text.push_str(&String::from_utf8_lossy(&data));
    }
    assert!(text.starts_with(": keepalive\n\n") && text.ends_with("data: 42\n\n"));
    assert_eq!(text.replace(": keepalive\n\n", ""), "data: let me think\n\ndata: 42\n\n");
    Ok(())
}
