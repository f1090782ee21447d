//! Popular SDKs read a stream with heartbeats, and raise the errors in a stream.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::post;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::process::Command;

use tower_buttress::{SseHeartbeatLayer, TimeoutProfile, presets};

use super::super::client::{chat, http1};
use super::super::gateway;
use super::{proxy, python, upstream};

const HEARTBEATS: [&str; 4] = ["--heartbeat", "50ms", "--heartbeat-before-headers", "100ms"];

/// The tested Node packages.
const NODE: [&str; 7] =
    ["openai", "anthropic", "gemini", "ollama", "vercel-openai", "vercel-anthropic", "vercel-google"];

/// The output of the script with a Node package. `.ci/clients` installs them with the others.
async fn say_in_node(sdk: &str, gateway: SocketAddr) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/stream.mjs");
    let output = Command::new("node").args([script, sdk, &format!("http://{gateway}")]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The script's output.
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
async fn openai_raises_an_error_event_of_a_stream() {
    let Some(python) = python() else { return };
    let gateway = gateway(&HEARTBEATS).await;
    assert!(say(&python, "openai-error", gateway.addr).await.starts_with("raised: The upstream failed"));
}

/// Anthropic's events, each after a silence long enough for heartbeats.
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

const CHUNKS: [&str; 3] = [
    r#"{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello, "},"finish_reason":null}]}"#,
    r#"{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{"index":0,"delta":{"content":"world"},"finish_reason":null}]}"#,
    r#"{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
];

const CANDIDATES: [&str; 2] = [
    r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello, "}]},"index":0}],"modelVersion":"sim"}"#,
    r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"world"}]},"finishReason":"STOP","index":0}],"modelVersion":"sim"}"#,
];

const LINES: [&str; 3] = [
    r#"{"model":"sim","created_at":"2026-11-27T12:00:00Z","message":{"role":"assistant","content":"Hello, "},"response":"Hello, ","done":false}"#,
    r#"{"model":"sim","created_at":"2026-11-27T12:00:00Z","message":{"role":"assistant","content":"world"},"response":"world","done":false}"#,
    r#"{"model":"sim","created_at":"2026-11-27T12:00:01Z","message":{"role":"assistant","content":""},"response":"","done":true,"done_reason":"stop"}"#,
];

/// The events of each dialect.
fn golden(path: &str) -> Vec<String> {
    let data = |data: &&str| format!("data: {data}\n\n");
    match path {
        "/v1/messages" => MESSAGE.iter().map(|(event, data)| format!("event: {event}\ndata: {data}\n\n")).collect(),
        "/api/chat" | "/api/generate" => LINES.iter().map(|line| format!("{line}\n")).collect(),
        "/v1/chat/completions" => CHUNKS.iter().map(data).chain(["data: [DONE]\n\n".to_owned()]).collect(),
        _ => CANDIDATES.iter().map(data).collect(),
    }
}

/// A model that is busy at first, then thinks; or one whose streams break after their first text.
async fn model(breaks: bool) -> SocketAddr {
    let calls = Arc::new(AtomicU32::new(0));
    let answer = async move |request: axum::extract::Request| {
        let mut events = golden(request.uri().path());
        let is_lines = request.uri().path().starts_with("/api/");
        let content_type = if is_lines { "application/x-ndjson" } else { "text/event-stream" };
        if !breaks && calls.fetch_add(1, Relaxed).is_multiple_of(2) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let failure = breaks.then(|| {
            events.truncate(if is_lines { 2 } else { 3 });
            Err("broken")
        });
        let events = stream::iter(events.into_iter().map(Ok).chain(failure)).then(|event| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            event
        });
        ([("content-type", content_type)], Body::from_stream(events)).into_response()
    };
    upstream(Router::new().fallback(answer)).await
}

/// A gateway of the preset with notices.
async fn with_notices(model: SocketAddr) -> SocketAddr {
    let stack = presets::llm_gateway(TimeoutProfile::STANDARD)
        .retry(|retry| retry.backoff_base(Duration::from_millis(50)))
        .heartbeat(|_| {
            SseHeartbeatLayer::new(Duration::from_millis(50))
                .error_events(true)
                .before_headers(Duration::from_millis(100))
                .notices(|notice, _| Some(format!("a {}", notice.name())))
        });
    proxy(&stack, model).await
}

#[tokio::test]
async fn the_sdks_pass_over_notices_and_heartbeats_of_their_dialect() {
    let Some(python) = python() else { return };
    let gateway = with_notices(model(false).await).await;
    let raw = http1().request(chat(gateway, true, "")).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let notice = r#""x_notice":{"type":"retry","message":"a retry"}"#;
    assert!(String::from_utf8_lossy(&raw).contains(notice), "{raw:?}");
    // OpenAI's SDK passes unknown fields to programs that read them.
    assert_eq!(say(&python, "openai-notices", gateway).await, "[a retry]Hello, world");
    assert_eq!(say(&python, "anthropic", gateway).await, "Hello, world");
    assert_eq!(say(&python, "gemini", gateway).await, "Hello, world");
    // Ollama's SDK is tested with a message and a completion.
    assert_eq!(say(&python, "ollama", gateway).await, "Hello, worldHello, world");
    for sdk in NODE {
        let said = match sdk {
            "ollama" => "[a retry]Hello, world[a retry]Hello, world",
            _ => "Hello, world",
        };
        assert_eq!(say_in_node(sdk, gateway).await, said, "{sdk}");
    }
}

#[tokio::test]
async fn the_sdks_raise_what_ends_a_stream_of_their_dialect() {
    let Some(python) = python() else { return };
    let gateway = with_notices(model(true).await).await;
    let check = |sdk: &str, said: &str| {
        let told = said.contains("The upstream failed in the middle of the stream.");
        assert!(said.starts_with("raised: ") && told, "{sdk}: {said}");
    };
    for sdk in ["openai", "anthropic", "gemini", "ollama"] {
        check(sdk, &say(&python, &format!("{sdk}-error"), gateway).await);
    }
    for sdk in NODE {
        check(sdk, &say_in_node(&format!("{sdk}-error"), gateway).await);
    }
}

/// The calls of a conversation's model.
type Asked = Arc<Mutex<Vec<String>>>;

/// A model that is busy at one message, streams without end at another, thinks for ever at a third, and answers the
/// newest for 4 s: longer than the SDKs wait before a retry.
async fn talkative(asked: Asked) -> SocketAddr {
    let answer = async move |request: axum::extract::Request| {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body);
        let messages = ["busy", "streams", "thinks", "newest"];
        let message = messages.into_iter().find(|message| body.contains(message)).unwrap();
        asked.lock().unwrap().push(message.to_owned());
        match message {
            "busy" => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            "thinks" => std::future::pending().await,
            _ => {}
        }
        let golden = golden(&path);
        // Its text repeatedly, or once and slowly.
        let (middle, pause) = match message {
            "streams" => (vec![golden[golden.len() / 2].clone(); 100], Duration::from_millis(100)),
            _ => (vec![], Duration::from_secs(4) / u32::try_from(golden.len()).unwrap()),
        };
        let (first, last) = golden.split_at(golden.len() / 2);
        let events = [first, &middle, last].concat();
        let events = stream::iter(events).then(move |event| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(event)
        });
        ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
    };
    upstream(Router::new().fallback(answer)).await
}

/// The first message met a 503, and its SDK retries while the last one is being answered: the retry must not end that.
#[tokio::test]
async fn of_a_conversation_exactly_the_newest_message_survives_the_retries_of_the_sdks() {
    let Some(python) = python() else { return };
    let asked = Asked::default();
    let model = format!("http://{}", talkative(asked.clone()).await);
    let gateway = gateway(&["--supersede-header", "x-chat", "--attempts", "1", "--upstream", &model]).await;
    let url = format!("http://{}", gateway.addr);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/");
    let tries = ["openai", "anthropic"].map(|sdk| (&*python, "superseded.py", sdk));
    let in_node = ["openai", "anthropic", "vercel-openai", "vercel-anthropic"];
    for (program, script, sdk) in tries.into_iter().chain(in_node.map(|sdk| ("node", "superseded.mjs", sdk))) {
        let output = Command::new(program).args([&format!("{folder}{script}"), sdk, &url]).output().await.unwrap();
        let failed = String::from_utf8_lossy(&output.stderr);
        let said: Vec<String> = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{sdk}: {failed}"));
        assert_eq!(said, ["raised", "raised", "raised", "Hello, world"], "{script} {sdk}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        let newest = asked.iter().position(|message| message == "newest");
        assert_eq!(newest, Some(asked.len() - 1), "{script} {sdk}: nothing reached the model after it: {asked:?}");
    }
}
