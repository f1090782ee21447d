//! Heartbeats over real sockets, HTTP/1.1 and HTTP/2, on a real axum server.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tower_buttress::SseHeartbeatLayer;

/// A stream of one event, and of another when it is let.
async fn server(layer: SseHeartbeatLayer, go: watch::Receiver<bool>) -> SocketAddr {
    let handler = move || async move {
        let second = stream::once(async move {
            let mut go = go;
            go.wait_for(|go| *go).await.unwrap();
            "data: b\n\n"
        });
        let events = stream::iter(["data: a\n\n"]).chain(second).map(Ok::<_, std::convert::Infallible>);
        ([("content-type", "text/event-stream")], Body::from_stream(events))
    };
    let app = Router::new().route("/", get(handler)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    at
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_over_both_versions() {
    for h2 in [false, true] {
        let (let_go, go) = watch::channel(false);
        let at = server(SseHeartbeatLayer::new(Duration::from_millis(20)), go).await;
        let client: Client<HttpConnector, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(h2).build_http();
        let request = Request::get(format!("http://{at}/")).body(Empty::new()).unwrap();
        let mut body = client.request(request).await.unwrap().into_body();
        let mut text = String::new();
        while let Some(frame) = body.frame().await {
            text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
            if text.matches(": keepalive\n\n").count() == 3 {
                let_go.send_replace(true);
            }
        }
        assert!(text.starts_with("data: a\n\n: keepalive\n\n") && text.ends_with("data: b\n\n"), "{text}");
        assert_eq!(text.replace(": keepalive\n\n", ""), "data: a\n\ndata: b\n\n");
    }
}

/// On several threads, where the one that writes and the one that fails the stream meet as they like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_event_precedes_the_cut_of_the_stream_over_both_versions() {
    let handler = || async {
        let events = stream::iter([Ok("data: a\n\n"), Err("broken")]);
        ([("content-type", "text/event-stream")], Body::from_stream(events))
    };
    let layer = SseHeartbeatLayer::new(Duration::from_secs(15)).error_events(true);
    let app = Router::new().route("/", get(handler)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    for h2 in [false, true] {
        let client: Client<HttpConnector, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(h2).build_http();
        let calls = (0..100).map(|_| async {
            let request = Request::get(format!("http://{at}/")).body(Empty::new()).unwrap();
            let mut body = client.request(request).await.unwrap().into_body();
            let mut text = String::new();
            let end = loop {
                match body.frame().await {
                    Some(Ok(frame)) => text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                    end => break end,
                }
            };
            assert!(text.starts_with("data: a\n\nevent: error\n") && text.ends_with("}}\n\n"), "{text}");
            assert!(end.is_some(), "it looks whole");
        });
        futures_util::future::join_all(calls).await;
    }
}

/// Node 20 takes a chunked body that is cut for whole where the head says `Connection: close`: only the event tells it.
#[tokio::test]
async fn a_caller_whose_connection_is_closed_reads_the_error_event_first() {
    let stream = || async {
        let events = stream::iter([Ok("data: a\n\n"), Err("broken")]);
        ([("content-type", "text/event-stream")], Body::from_stream(events))
    };
    let never = || std::future::pending::<&'static str>();
    let layer = SseHeartbeatLayer::new(Duration::from_secs(15)).error_events(true);
    let early = layer.clone().max_silence(Duration::from_millis(20)).before_headers(Duration::from_millis(20));
    let streams = Router::new().route("/v1/messages", get(stream)).layer(layer);
    let app = streams.merge(Router::new().route("/v1/chat/completions", get(never)).layer(early));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let mut socket = tokio::net::TcpStream::connect(at).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        // The server closes the connection.
        drop(socket.read_to_string(&mut text).await);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("connection: close\r\n"), "{text}");
        assert!(text.contains("event: error\n") && text.ends_with("}}\n\n\r\n"), "{text}");
    }
}
