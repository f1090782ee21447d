//! `examples/gateway.rs`, with callers in front and a TLS server behind.

#[allow(dead_code)]
#[path = "../../../../examples/gateway.rs"]
mod gateway;

use std::net::Ipv4Addr;

use axum::Router;
use axum::extract::Request as Asked;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::Request;
use http::header::CONNECTION;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

use super::client::{raw, raw_upstream};
use super::tls::{HTTP1, HTTP2, Party};

#[tokio::test]
async fn a_call_goes_over_tls_and_what_is_about_one_connection_stays_on_it() {
    for protocol in [HTTP1, HTTP2] {
        let told = |request: Asked| async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let path = head.uri.path_and_query().unwrap().as_str();
            let headers = [("x-told", "yes"), ("connection", "x-hop"), ("x-hop", "here")];
            let text =
                format!("{path} {} {}", String::from_utf8_lossy(&body), head.headers.contains_key("x-secret-hop"));
            // HTTP/2 has no such header.
            if head.version == http::Version::HTTP_11 { (headers, text).into_response() } else { text.into_response() }
        };
        let party = Party::new();
        let origin = format!("https://{}/", party.serve(protocol, Router::new().fallback(told)).await);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(gateway::serve(listener, origin, party.client()));

        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::post(format!("http://{address}/v1/models?limit=5"))
            .header(CONNECTION, "x-secret-hop")
            .header("x-secret-hop", "1");
        let answer = client.request(request.body(Full::<Bytes>::from("hello")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("x-hop"));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "/v1/models?limit=5 hello false");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
                  b\r\nhello world\r\n0\r\n\r\n";
    let (upstream, _tells) = raw_upstream("\r\n\r\n", answer).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(gateway::serve(listener, format!("http://{upstream}"), Party::new().client()));
    let answer = raw(address, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("\r\nhello world\r\n0\r\n\r\n") && !answer.contains("content-length"), "{answer}");
}

#[tokio::test]
async fn an_answer_may_have_250_fields() {
    let fields: String = (0..249).map(|nth| format!("x-field-{nth}: {nth}\r\n")).collect();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
    let (upstream, _tells) = raw_upstream("\r\n\r\n", answer.leak()).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(gateway::serve(listener, format!("http://{upstream}"), Party::new().client()));
    let answer = raw(address, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-field-248: 248\r\n"), "{answer}");
}

#[tokio::test]
async fn an_upstream_without_a_trusted_certificate_is_a_502() {
    let (trusted, stranger) = (Party::new(), Party::new());
    let origin = format!("https://{}", stranger.serve(HTTP1, Router::new()).await);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(gateway::serve(listener, origin, trusted.client()));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(format!("http://{address}/")).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 502);
}
