//! Misleading answers: streams that end early, and errors inside a 200.

use std::net::SocketAddr;
use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::{ask, chat, content, read};
use super::{Running, gateway, soon};
use crate::support::secs;

/// The answer to a streaming request: status, server, body, and whether that came to its end.
async fn answered(gateway: &Running, fault: &str) -> (u16, String, String, bool) {
    let answer = ask(chat(gateway.addr, true, fault)).await;
    let (status, served_by) = (answer.status().as_u16(), &answer.headers()["x-gateway-served-by"]);
    let served_by = served_by.to_str().unwrap().to_owned();
    let (body, whole) = read(answer.into_body()).await;
    (status, served_by, body, whole)
}

#[tokio::test]
async fn a_stream_that_ends_early_does_not_look_whole() {
    let gateway = gateway(&["--attempts", "1"]).await;
    for fault in ["gap=0s; truncate-after=2", "gap=0s; error-after=2"] {
        let (status, served_by, events, whole) = answered(&gateway, fault).await;
        assert_eq!((status, served_by.as_str(), whole), (200, "upstream", false), "{fault}");
        assert_eq!(content(&events), "You said ", "{fault}");
        // Every SDK raises an event with this member.
        let last = events.lines().rfind(|line| line.starts_with("data: ")).unwrap();
        let data: Value = serde_json::from_str(&last["data: ".len()..]).unwrap();
        assert!(data["error"]["message"].is_string() && !events.contains("[DONE]"), "{events}");
    }
}

#[tokio::test]
async fn before_the_first_content_such_a_stream_is_tried_again() {
    let gateway = gateway(&["--backoff-base", "5ms"]).await;
    for (calls, fault) in [(2, "truncate-after=0; times=1"), (4, "error-after=0; times=1")] {
        let answer = ask(chat(gateway.addr, true, fault)).await;
        assert_eq!((answer.status(), &answer.headers()["x-gateway-attempts"]), (StatusCode::OK, &"2".parse().unwrap()));
        assert!(read(answer.into_body()).await.0.ends_with("data: [DONE]\n\n"));
        assert_eq!(gateway.provider().counts().calls, calls, "{fault}");
    }
}

#[tokio::test]
async fn a_refusal_made_from_an_upstreams_error_is_that_error() {
    let gateway = gateway(&["--attempts", "3", "--backoff-base", "5ms"]).await;
    let (status, served_by, body, whole) = answered(&gateway, "error-after=0; code=insufficient_quota").await;
    assert_eq!((status, served_by.as_str(), whole), (429, "upstream", true));
    let error = serde_json::from_str::<Value>(&body).unwrap()["error"].take();
    // SDKs read this member.
    assert_eq!((&error["code"], &error["type"]), (&json!("insufficient_quota"), &json!("server_error")));
    // A spent quota is still spent at the second attempt.
    assert_eq!(gateway.provider().counts().calls, 1);

    let (status, served_by, body, _) = answered(&gateway, "truncate-after=0; times=3").await;
    assert_eq!((status, served_by.as_str()), (502, "gateway"));
    assert!(serde_json::from_str::<Value>(&body).unwrap()["error"]["message"].is_string(), "{body}");
}

#[tokio::test]
async fn without_the_guard_an_end_is_an_end() {
    let gateway = gateway(&["--guard", "off"]).await;
    let (_, _, events, whole) = answered(&gateway, "gap=0s; truncate-after=2").await;
    assert!(whole && content(&events) == "You said " && !events.contains("[DONE]"));
    let (_, _, events, whole) = answered(&gateway, "gap=0s; error-after=1").await;
    assert!(whole && events.ends_with("\"type\":\"server_error\"}}\n\n"), "{events}");
}

#[tokio::test]
async fn what_ends_without_a_reason_can_be_allowed() {
    let gateway = gateway(&["--missing-end", "allow"]).await;
    let (_, _, events, whole) = answered(&gateway, "gap=0s; truncate-after=2").await;
    assert!(whole && content(&events) == "You said ", "{events}");
}

#[tokio::test]
async fn what_is_held_can_be_tried_again_to_its_end() {
    let gateway = gateway(&["--hold", "64KiB", "--backoff-base", "5ms"]).await;
    let (status, _, events, whole) = answered(&gateway, "gap=0s; truncate-after=5; times=1").await;
    assert_eq!((status, whole), (200, true));
    assert!(content(&events).len() > 50 && events.ends_with("data: [DONE]\n\n"), "{events}");
    // Larger than may be buffered.
    assert_eq!(answered(&gateway, "gap=0s; chunks=200; size=1000").await.0, 502);
}

#[tokio::test]
async fn a_stream_without_content_is_given_up() {
    let gateway = gateway(&["--attempts", "1", "--first-content-timeout", "300ms"]).await;
    let asked = Instant::now();
    // It has begun, and then sends only comments.
    let (status, _, _, whole) = answered(&gateway, "gap=50ms; comments-after=0").await;
    assert_eq!((status, whole), (504, true));
    assert!(asked.elapsed() < secs(10));
    gateway.abandoned(1).await;
}

#[tokio::test]
async fn an_answer_that_is_no_stream_may_take_longer_than_a_first_byte() {
    let limits = ["--attempts", "1", "--first-byte-timeout", "200ms", "--answer-timeout", "1s"];
    let gateway = gateway(&limits).await;
    assert_eq!(ask(chat(gateway.addr, false, "head=500ms")).await.status(), StatusCode::OK);
    assert_eq!(ask(chat(gateway.addr, true, "head=500ms")).await.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(ask(chat(gateway.addr, false, "head=1h")).await.status(), StatusCode::GATEWAY_TIMEOUT);
    gateway.abandoned(2).await;
}

#[tokio::test]
async fn a_json_call_that_hangs_reaches_its_fallback() {
    let (fallback, seen) = super::again::backup(StatusCode::OK).await;
    let limits = ["--first-byte-timeout", "10s", "--answer-timeout", "300ms", "--fallback", &fallback];
    let gateway = gateway(&limits).await;
    let answer = ask(chat(gateway.addr, false, "head=1h")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-gateway-served-by"]),
        (200, &"fallback".parse().unwrap())
    );
    assert_eq!(seen.lock().unwrap().len(), 1);
    gateway.abandoned(1).await;
}

/// An upstream that breaks within a JSON answer, after the caller has received a part.
pub(super) async fn cut_within_an_answer(fields: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"hello\"}]}") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}\r\n\r\n");
            let text = "x".repeat(700_000);
            let begun = format!(r#"{{"choices":[{{"index":0,"message":{{"content":"{text}"#);
            let begun = match fields.contains("chunked") {
                true => format!("{:x}\r\n{begun}\r\n", begun.len()),
                false => begun,
            };
            stream.write_all((head + &begun).as_bytes()).await.unwrap();
        }
    });
    addr
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_to_an_http_1_0_caller() {
    for fields in ["content-length: 900000", "transfer-encoding: chunked"] {
        for options in [&[][..], &["--guard", "off"]] {
            let upstream = format!("http://{}", cut_within_an_answer(fields).await);
            let gateway = gateway(&[&["--upstream", &upstream, "--attempts", "1"], options].concat()).await;
            let body = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
            let request = format!(
                "POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = soon(stream.read_to_end(&mut answer)).await;
            let answer = String::from_utf8_lossy(&answer);
            // Fewer bytes than the head says, or a reset: the only ways to show a break in HTTP/1.0.
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let is_short = length.is_some_and(|length| body.len() < length.parse().unwrap());
            assert!(is_short || ended.is_err(), "{fields} {options:?}: {head}");
            assert_eq!(length.is_some(), fields.starts_with("content-length"), "{fields} {options:?}: {head}");
        }
    }
}
