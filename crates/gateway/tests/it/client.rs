//! Clients: hyper's, and one that writes its own bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower_buttress::error::BoxError;

use super::soon;

pub(super) type Outgoing = UnsyncBoxBody<Bytes, BoxError>;

pub(super) fn http1() -> Client<HttpConnector, Outgoing> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(super) fn http2() -> Client<HttpConnector, Outgoing> {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

pub(super) fn full(body: impl Into<Bytes>) -> Outgoing {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A chat completion, optionally with a fault.
pub(super) fn chat(gateway: SocketAddr, stream: bool, fault: &str) -> Request<Outgoing> {
    let body = serde_json::json!({
        "model": "sim",
        "stream": stream,
        "messages": [{"role": "user", "content": "Hello"}],
    });
    Request::post(format!("http://{gateway}/v1/chat/completions"))
        .header("content-type", "application/json")
        .header("x-fault", fault)
        .body(full(body.to_string()))
        .unwrap()
}

/// Makes a call over HTTP/1.1.
pub(super) async fn ask(request: Request<Outgoing>) -> Response<Incoming> {
    soon(http1().request(request)).await.unwrap()
}

/// The text of a body, and whether it came to its end.
pub(super) async fn read(mut body: Incoming) -> (String, bool) {
    let mut text = Vec::new();
    let whole = soon(async {
        loop {
            match body.frame().await {
                Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    })
    .await;
    (String::from_utf8(text).unwrap(), whole)
}

/// The combined content of a stream's events.
pub(super) fn content(events: &str) -> String {
    let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
    let chunks = data.filter_map(|data| serde_json::from_str::<serde_json::Value>(data).ok());
    chunks.filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())).collect()
}

/// Writes `request` and reads until the connection closes.
pub(super) async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// An upstream that reads up to `until`, reports what it read, and answers with `response`, once per connection.
pub(super) async fn raw_upstream(
    until: &'static str,
    response: &'static str,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (told, tells) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(until.len()).any(|window| window == until.as_bytes()) {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let _ = told.send(String::from_utf8(request).unwrap());
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    (addr, tells)
}
