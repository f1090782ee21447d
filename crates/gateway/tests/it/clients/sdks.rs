//! The SDKs that people use: they read a stream with heartbeats unharmed, and raise what is told in one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use futures_util::{StreamExt, stream};
use tokio::process::Command;

use super::super::gateway;
use super::{python, upstream};

const HEARTBEATS: [&str; 4] = ["--heartbeat", "50ms", "--heartbeat-before-headers", "100ms"];

/// What the script says.
async fn say(python: &str, sdk: &str, gateway: SocketAddr) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/stream.py");
    let output = Command::new(python).args([script, sdk, &format!("http://{gateway}")]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn openai_reads_a_stream_with_heartbeats() {
    let Some(python) = python() else { return };
    let gateway = gateway(&HEARTBEATS).await;
    let said = say(&python, "openai", gateway.addr).await;
    assert_eq!(said, "You said \"Hello\". I am ");
}

#[tokio::test]
async fn openai_raises_an_error_that_is_told_in_a_stream() {
    let Some(python) = python() else { return };
    let gateway = gateway(&HEARTBEATS).await;
    assert!(say(&python, "openai-error", gateway.addr).await.starts_with("raised: The upstream failed"));
}

/// Anthropic's events, each after a silence in which there is room for heartbeats.
const MESSAGE: [(&str, &str); 7] = [
    (
        "message_start",
        r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"sim","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}"#,
    ),
    ("content_block_start", r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello, "}}"#,
    ),
    ("content_block_delta", r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"world"}}"#),
    ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
    (
        "message_delta",
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}"#,
    ),
    ("message_stop", r#"{"type":"message_stop"}"#),
];

#[tokio::test]
async fn anthropic_reads_a_stream_with_heartbeats() {
    let Some(python) = python() else { return };
    let messages = || async {
        let events = stream::iter(MESSAGE).then(|(event, data)| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, Infallible>(format!("event: {event}\ndata: {data}\n\n"))
        });
        ([("content-type", "text/event-stream")], Body::from_stream(events))
    };
    let upstream = upstream(Router::new().route("/v1/messages", post(messages))).await;
    let upstream = format!("http://{upstream}");
    let options = [&HEARTBEATS[..], &["--upstream", &upstream]].concat();
    let gateway = gateway(&options).await;
    assert_eq!(say(&python, "anthropic", gateway.addr).await, "Hello, world");
}
