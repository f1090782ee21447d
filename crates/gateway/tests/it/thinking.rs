//! A model that thinks for longer than proxies wait, and a page that shows it.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{ask, chat, content, full, http1, http2, raw, read};
use super::{gateway, soon};

const BEAT: &str = ": keepalive\n\n";

#[tokio::test]
async fn a_stream_begins_while_the_model_thinks_and_arrives_whole() {
    let gateway = gateway(&["--heartbeat", "50ms", "--heartbeat-before-headers", "50ms"]).await;
    let answer = ask(chat(gateway.addr, true, "head=400ms; gap=0s")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    assert!(!answer.headers().contains_key("x-gateway-attempts"), "their number is not known yet");
    let (text, whole) = read(answer.into_body()).await;
    assert!(whole && text.starts_with(BEAT) && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(text.matches(BEAT).count() >= 3 && content(&text).len() > 20);
}

#[tokio::test]
async fn who_asks_for_an_object_gets_an_answer_and_no_stream() {
    let gateway = gateway(&["--heartbeat", "20ms", "--heartbeat-before-headers", "20ms"]).await;
    let answer = ask(chat(gateway.addr, false, "head=100ms")).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(serde_json::from_str::<serde_json::Value>(&read(answer.into_body()).await.0).is_ok());
}

#[tokio::test]
async fn an_error_after_a_stream_began_is_an_event_in_it() {
    let gateway = gateway(&["--attempts", "1", "--heartbeat-before-headers", "50ms"]).await;
    let answer = ask(chat(gateway.addr, true, "head=200ms; status=429")).await;
    let (text, whole) = read(answer.into_body()).await;
    assert!(!whole, "never a clean end");
    assert!(text.contains("event: error\n") && text.contains("\"code\":\"rate_limit_exceeded\""), "{text}");
}

#[tokio::test]
async fn a_caller_that_asks_for_notices_gets_the_reason_for_its_wait() {
    for (option, header, told) in
        [("off", "on", false), ("on", "", true), ("header", "on", true), ("header", "", false)]
    {
        let options = ["--notices", option, "--heartbeat-before-headers", "50ms", "--backoff-base", "200ms"];
        let gateway = gateway(&options).await;
        let mut request = chat(gateway.addr, true, "head=100ms; status=503; times=1; gap=0s");
        request.headers_mut().insert("x-notices", header.parse().unwrap());
        let (text, whole) = read(ask(request).await.into_body()).await;
        assert!(whole && content(&text).len() > 20, "{text}");
        let notice = r#""x_notice":{"type":"retry","message":"This takes longer. Trying again."}"#;
        assert_eq!(text.contains(notice), told, "{option} {header}: {text}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so() {
    for (option, heartbeat, told) in [("true", "15s", true), ("true", "off", true), ("false", "15s", false)] {
        let gateway = gateway(&["--error-events", option, "--heartbeat", heartbeat]).await;
        for client in [http1(), http2()] {
            let answer = soon(client.request(chat(gateway.addr, true, "gap=0s; close-after=3"))).await.unwrap();
            let (text, whole) = read(answer.into_body()).await;
            assert!(!whole && text.contains("event: error\n") == told, "{text}");
        }
    }
}

#[tokio::test]
async fn heartbeats_look_as_asked_for_or_are_off() {
    for (options, frame) in [
        (&["--heartbeat", "30ms", "--heartbeat-frame", "comment-no-blank"][..], Some("\n\n: keepalive\n")),
        (&["--heartbeat", "30ms", "--heartbeat-frame", "newline"][..], Some("\n\n\n")),
        (&["--heartbeat", "off"][..], None),
    ] {
        let gateway = gateway(options).await;
        let answer = ask(chat(gateway.addr, true, "gap=200ms; chunks=2")).await;
        let (text, whole) = read(answer.into_body()).await;
        assert!(whole);
        match frame {
            Some(frame) => assert!(text.contains(frame), "{text:?}"),
            None => assert!(!text.contains("keepalive") && !text.contains("\n\n\n"), "{text:?}"),
        }
    }
}

#[tokio::test]
async fn a_dead_upstream_is_given_up_though_heartbeats_go_out() {
    for (heartbeat, beats) in [("20ms", true), ("off", false)] {
        let gateway = gateway(&["--heartbeat", heartbeat, "--heartbeat-max-silence", "200ms"]).await;
        let answer = ask(chat(gateway.addr, true, "gap=0s; stall-after=1")).await;
        let (text, whole) = read(answer.into_body()).await;
        assert!(!whole && text.contains(BEAT) == beats && text.contains("timeout_error"), "{text}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    // By the gateway's limit, and by the caller's.
    for (deadline, theirs) in [("100ms", "60000"), ("60s", "100"), ("off", "100")] {
        let gateway = gateway(&["--deadline", deadline]).await;
        let half = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
             x-deadline-ms: {theirs}\r\ncontent-length: 1000\r\n\r\n{{\"model\":"
        );
        assert!(soon(raw(gateway.addr, &half)).await.starts_with("HTTP/1.1 408 "));
        assert_eq!(gateway.provider().counts().calls, 0);
    }
}

#[tokio::test]
async fn the_time_in_which_a_request_came_is_no_more_left() {
    let gateway = gateway(&["--deadline-reserve", "off"]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                x-deadline-ms: 30000\r\nexpect: 100-continue\r\ncontent-length: 15\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Sent when the gateway begins to read; the deadline is set by then.
    let mut go_on = *b"HTTP/1.1 100 Continue\r\n\r\n";
    soon(stream.read_exact(&mut go_on)).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 "));
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(br#"{"stream":true}"#).await.unwrap();
    soon(gateway.provider().until(|counts| counts.calls == 1)).await;
    let left = gateway.provider().seen()[0].headers["x-deadline-ms"].to_str().unwrap().parse::<u64>().unwrap();
    assert!((20_000..=29_950).contains(&left), "{left}");
}

#[tokio::test]
async fn a_browser_gets_a_page_that_says_what_happens() {
    let gateway = gateway(&["--backoff-base", "5ms"]).await;
    let get = |path: &str, accept: &str| {
        let request = Request::get(format!("http://{}{path}", gateway.addr)).header("accept", accept);
        ask(request.body(full("")).unwrap())
    };
    let page = get("/-/", "text/html,*/*;q=0.8").await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(read(page.into_body()).await.0.contains("</html>"));

    let mut events = get("/-/events", "text/event-stream").await.into_body();
    assert!(read(ask(chat(gateway.addr, true, "reset; times=1; gap=0s")).await.into_body()).await.1);
    let mut told = String::new();
    while !told.contains("retry_scheduled") {
        let frame = soon(events.frame()).await.unwrap().unwrap();
        told.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    // It ends with the gateway, and delays nothing.
    gateway.stop.send(()).unwrap();
    soon(async { while events.frame().await.is_some() {} }).await;
    tokio::time::timeout(Duration::from_secs(5), gateway.served).await.unwrap().unwrap();
}
