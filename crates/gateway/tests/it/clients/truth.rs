//! Every broken and every whole form of an answer, read by the SDKs through the gateway.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use super::super::gateway;
use super::{python, upstream};

/// Whole answers: each SDK returns the text, without an error.
const WHOLE: [&str; 3] = ["whole", "cut at a limit", "in small pieces"];

/// Answers that break after their first text.
const BROKEN: [&str; 6] =
    ["ends early", "ends in an event", "breaks off", "error", "error and a marker", "a marker without a reason"];

/// Answers that the gateway replaces with a status, with the upstream's error code.
const REFUSED: [(&str, u16, Option<&str>); 8] = [
    ("ends before its text", 502, None),
    ("is empty", 502, None),
    ("error before its text", 503, None),
    ("quota before its text", 429, Some("insufficient_quota")),
    ("error in JSON", 503, None),
    ("JSON is cut", 502, None),
    ("quota", 429, Some("insufficient_quota")),
    ("too long", 400, Some("context_length_exceeded")),
];

/// Only chat servers do this.
const OF_A_CHAT: [&str; 4] = ["one of two choices", "error field", "error beside choices", "error of vLLM"];

/// The SDKs for chats.
const CHATS: [&str; 2] = ["openai", "vercel-openai"];

/// An API, by the events of its streams.
struct Api {
    start: Vec<String>,
    text: Vec<String>,
    end: Vec<String>,
    /// The end at a limit of tokens.
    limit: Vec<String>,
    marker: &'static str,
}

fn unnamed(event: &Value) -> String {
    format!("data: {event}\n\n")
}

fn named(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())
}

// === impl Api ===

impl Api {
    fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Self::chat(),
            "/v1/responses" => Self::responses(),
            "/v1/messages" => Self::messages(),
            path if path.ends_with(":streamGenerateContent") => Self::gemini(),
            path => panic!("{path}"),
        }
    }

    fn chat() -> Self {
        let chunk = |delta: Value, reason: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
            let object = "chat.completion.chunk";
            unnamed(&json!({ "id": "c-1", "object": object, "created": 1, "model": "sim", "choices": [choice] }))
        };
        let marker = "data: [DONE]\n\n";
        Self {
            start: vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null)],
            text: ["Hello, ", "world"].map(|text| chunk(json!({ "content": text }), Value::Null)).into(),
            end: vec![chunk(json!({}), "stop".into()), marker.to_owned()],
            limit: vec![chunk(json!({}), "length".into()), marker.to_owned()],
            marker,
        }
    }

    fn responses() -> Self {
        let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
        let item = |status: &str, content: &[Value]| json!({ "id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content });
        let response = |status: &str, output: &[Value], reason: Option<&str>| {
            json!({
                "id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": null, "model": "sim",
                "incomplete_details": reason.map(|reason| json!({ "reason": reason })), "output": output, "metadata": {},
                "instructions": null, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
                "usage": {
                    "input_tokens": 1, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": 2,
                    "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 3,
                },
            })
        };
        let of_part = |number: u32, kind: &str, key: &str, value: Value| {
            named(&json!({
                "type": kind, "sequence_number": number, "item_id": "msg_1", "output_index": 0, "content_index": 0, key: value,
            }))
        };
        let of_item = |number: u32, kind: &str, item: Value| {
            named(&json!({ "type": kind, "sequence_number": number, "output_index": 0, "item": item }))
        };
        let of_all = |number: u32, kind: &str, response: Value| {
            named(&json!({ "type": kind, "sequence_number": number, "response": response }))
        };
        let done = item("completed", &[part("Hello, world")]);
        let ends = |last| {
            vec![
                of_part(6, "response.output_text.done", "text", "Hello, world".into()),
                of_part(7, "response.content_part.done", "part", part("Hello, world")),
                of_item(8, "response.output_item.done", done.clone()),
                last,
            ]
        };
        let delta = |number, text: &str| {
            let event = of_part(number, "response.output_text.delta", "delta", text.into());
            event.replace("\"delta\":", "\"logprobs\":[],\"delta\":")
        };
        Self {
            start: vec![
                of_all(0, "response.created", response("in_progress", &[], None)),
                of_all(1, "response.in_progress", response("in_progress", &[], None)),
                of_item(2, "response.output_item.added", item("in_progress", &[])),
                of_part(3, "response.content_part.added", "part", part("")),
            ],
            text: vec![delta(4, "Hello, "), delta(5, "world")],
            end: ends(of_all(9, "response.completed", response("completed", std::slice::from_ref(&done), None))),
            limit: ends(of_all(
                9,
                "response.incomplete",
                response("incomplete", std::slice::from_ref(&done), Some("max_output_tokens")),
            )),
            marker: "data: [DONE]\n\n",
        }
    }

    fn messages() -> Self {
        let message = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "sim", "content": [], "stop_reason": null,
            "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 },
        });
        let delta = |text: &str| {
            let delta = json!({ "type": "text_delta", "text": text });
            named(&json!({ "type": "content_block_delta", "index": 0, "delta": delta }))
        };
        let marker = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
        let ends = |reason: &str| {
            let delta = json!({ "stop_reason": reason, "stop_sequence": null });
            vec![
                named(&json!({ "type": "content_block_stop", "index": 0 })),
                named(&json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": 2 } })),
                marker.to_owned(),
            ]
        };
        Self {
            start: vec![
                named(&json!({ "type": "message_start", "message": message })),
                named(&json!({
                    "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" },
                })),
            ],
            text: vec![delta("Hello, "), delta("world")],
            end: ends("end_turn"),
            limit: ends("max_tokens"),
            marker,
        }
    }

    fn gemini() -> Self {
        let chunk = |text: &str, reason: Option<&str>| {
            let content = json!({ "role": "model", "parts": [{ "text": text }] });
            let mut candidate = json!({ "content": content, "index": 0 });
            if let Some(reason) = reason {
                candidate["finishReason"] = reason.into();
            }
            unnamed(&json!({ "candidates": [candidate], "modelVersion": "sim", "responseId": "r-1" }))
        };
        Self {
            start: Vec::new(),
            text: vec![chunk("Hello, ", None), chunk("world", None)],
            end: vec![chunk("", Some("STOP"))],
            limit: vec![chunk("", Some("MAX_TOKENS"))],
            marker: "",
        }
    }
}

/// The API's error object for an OpenAI error code.
fn error(path: &str, code: &str) -> Value {
    let message = format!("It is {code}.");
    match (path, code) {
        ("/v1/messages", "server_is_overloaded") => json!({ "type": "overloaded_error", "message": message }),
        ("/v1/messages", "insufficient_quota") => {
            json!({ "type": "rate_limit_error", "message": message, "details": { "error_code": "credit_balance_exhausted" } })
        }
        ("/v1/messages", _) => json!({ "type": "invalid_request_error", "message": "prompt is too long: 9 > 8" }),
        (path, code) if path.ends_with(":streamGenerateContent") => match code {
            "server_is_overloaded" => json!({ "code": 503, "message": message, "status": "UNAVAILABLE" }),
            "insufficient_quota" => json!({ "code": 429, "message": "limit: 0", "status": "RESOURCE_EXHAUSTED" }),
            _ => json!({
                "code": 400, "message": "The input token count exceeds the maximum number of tokens", "status": "INVALID_ARGUMENT",
            }),
        },
        _ => json!({ "message": message, "type": "server_error", "code": code, "param": null }),
    }
}

/// The same as a body, or as the data of an event.
fn error_json(path: &str, code: &str) -> Value {
    match path {
        "/v1/messages" | "/v1/responses" => json!({ "type": "error", "error": error(path, code) }),
        _ => json!({ "error": error(path, code) }),
    }
}

fn streamed_error(path: &str, code: &str) -> String {
    match path {
        "/v1/messages" | "/v1/responses" => named(&error_json(path, code)),
        _ => unnamed(&error_json(path, code)),
    }
}

fn events(events: Vec<String>, breaks: bool) -> Response {
    let failure = breaks.then_some(Err("broken"));
    let events = stream::iter(events.into_iter().map(Ok).chain(failure)).then(async |event| {
        // A frame of its own.
        tokio::time::sleep(Duration::from_millis(2)).await;
        event
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

fn in_json(status: StatusCode, body: String) -> Response {
    let body = Body::from_stream(stream::iter([Ok::<_, Infallible>(body)]));
    (status, [("content-type", "application/json")], body).into_response()
}

/// An upstream whose answer has the kind that the request names.
async fn answer(request: Request) -> Response {
    let path = request.uri().path();
    let Api { start, text, end, limit, marker } = Api::of(path);
    let overloaded = || streamed_error(path, "server_is_overloaded");
    let begun = || [&start[..], &text[..1]].concat();
    let behind = |what: String| [begun(), vec![what]].concat();
    let chunk = |more: &str| format!("data: {{{more}}}\n\n");
    match request.headers()["x-says"].to_str().unwrap() {
        "whole" => events([start, text, end].concat(), false),
        "cut at a limit" => events([start, text, limit].concat(), false),
        "in small pieces" => {
            let all = [start, text, end].concat().concat();
            events(all.as_bytes().chunks(41).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect(), false)
        }
        "ends early" => events(begun(), false),
        "ends in an event" => {
            let (half, _) = text[1].split_at(text[1].len() / 2);
            events(behind(half.to_owned()), false)
        }
        "breaks off" => events(begun(), true),
        "error" => events(behind(overloaded()), false),
        "error and a marker" => events([behind(overloaded()), vec![marker.to_owned()]].concat(), false),
        "ends before its text" => events(start, false),
        "is empty" => events(Vec::new(), false),
        "error before its text" => events([start, vec![overloaded()]].concat(), false),
        "quota before its text" => events([start, vec![streamed_error(path, "insufficient_quota")]].concat(), false),
        "error in JSON" => in_json(StatusCode::OK, error_json(path, "server_is_overloaded").to_string()),
        "JSON is cut" => in_json(StatusCode::OK, "{\"id\":\"x\",\"object\":".to_owned()),
        "quota" => in_json(StatusCode::TOO_MANY_REQUESTS, error_json(path, "insufficient_quota").to_string()),
        "too long" => in_json(StatusCode::BAD_REQUEST, error_json(path, "context_length_exceeded").to_string()),
        "a marker without a reason" => events(behind(marker.to_owned()), false),
        "one of two choices" => {
            let other = start[0].replace("\"index\":0", "\"index\":1");
            events([behind(other), end].concat(), false)
        }
        "error field" => events(behind("error: {\"code\":500,\"message\":\"slot gone\"}\n\n".to_owned()), false),
        "error beside choices" => {
            let choices = "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]";
            events(
                behind(chunk(&format!("\"id\":\"c-1\",{choices},\"error\":{{\"code\":502,\"message\":\"x\"}}"))),
                false,
            )
        }
        "error of vLLM" => {
            let error =
                chunk("\"object\":\"error\",\"message\":\"EngineDead\",\"type\":\"InternalServerError\",\"code\":500");
            events([behind(error), vec![marker.to_owned()]].concat(), false)
        }
        kind => panic!("{kind}"),
    }
}

/// The results of a language's SDKs for each kind of answer.
async fn made(program: &str, script: &str, gateway: &str) -> Value {
    let script = format!("{}/tests/it/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let kinds = WHOLE.iter().chain(&BROKEN).chain(REFUSED.iter().map(|(kind, ..)| kind)).chain(&OF_A_CHAT);
    let output = Command::new(program).args([script.as_str(), gateway]).args(kinds).output().await.unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{script}: {error}: {failed}"))
}

#[tokio::test]
async fn each_sdk_raises_what_is_broken_and_reads_what_is_whole() {
    let Some(python) = python() else { return };
    let model = format!("http://{}", upstream(Router::new().fallback(answer)).await);
    // Each kind separately: a failed call must not influence the next one.
    let off = ["--attempts", "1", "--breaker", "off", "--dedup", "off", "--pace", "off"];
    let gateway = gateway(&[&["--upstream", &model][..], &off].concat()).await;
    let gateway = format!("http://{}", gateway.addr);
    for (program, script) in [(&*python, "truth.py"), ("node", "truth.mjs")] {
        let made = made(program, script, &gateway).await;
        for (sdk, made) in made.as_object().unwrap() {
            for kind in WHOLE {
                let made = &made[kind];
                assert_eq!((&made["text"], &made["raised"]), (&"Hello, world".into(), &Value::Null), "{sdk}: {kind}");
            }
            for kind in BROKEN.iter().chain(OF_A_CHAT.iter().filter(|_| CHATS.contains(&&**sdk))) {
                let made = &made[kind];
                assert!(made["raised"].is_string(), "{sdk} takes for whole: {kind}: {made}");
                // It reads no further than the upstream wrote.
                assert!("Hello, ".starts_with(made["text"].as_str().unwrap()), "{sdk}: {kind}: {made}");
            }
            for (kind, status, code) in REFUSED {
                let made = &made[kind];
                assert!(made["raised"].is_string() && made["text"] == "", "{sdk} takes for an answer: {kind}: {made}");
                let status = if sdk.contains("anthropic") && status == 503 { 529 } else { status };
                assert_eq!(made["status"], status, "{sdk}: {kind}: {made}");
                let is_openai = CHATS.contains(&&**sdk) || sdk.contains("responses");
                if let (Some(code), true) = (code, is_openai) {
                    assert_eq!(made["code"], code, "{sdk}: {kind}: {made}");
                }
            }
        }
    }
}
