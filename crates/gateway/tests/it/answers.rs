//! Validated JSON answers, and answers to similar requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::{Outgoing, ask, full, read};
use super::forwarding::serve;
use super::{gateway, soon};

/// A model that sends these texts in turn, and then repeats the last.
#[derive(Clone)]
struct Model {
    texts: &'static [&'static str],
    calls: Arc<AtomicUsize>,
    /// The last request.
    asked: Arc<Mutex<Value>>,
}

impl Model {
    async fn start(texts: &'static [&'static str]) -> (Self, String) {
        let model = Self { texts, calls: Arc::default(), asked: Arc::default() };
        let app = Router::new().route("/v1/chat/completions", post(Self::answer)).with_state(model.clone());
        (model, format!("http://{}", serve(app).await))
    }

    async fn answer(State(model): State<Self>, Json(request): Json<Value>) -> Json<Value> {
        let call = model.calls.fetch_add(1, Ordering::Relaxed);
        *model.asked.lock().await = request;
        Json(json!({
            "id": "1", "object": "chat.completion", "model": "m",
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": model.texts[call.min(model.texts.len() - 1)]},
            }],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        }))
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

fn for_json(gateway: std::net::SocketAddr) -> Request<Outgoing> {
    let schema = json!({
        "type": "object", "required": ["born"], "properties": {"born": {"type": "integer"}},
    });
    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "When was Ada born?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    });
    Request::post(format!("http://{gateway}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(full(body.to_string()))
        .unwrap()
}

async fn text(answer: http::Response<hyper::body::Incoming>) -> String {
    let answer: Value = serde_json::from_str(&read(answer.into_body()).await.0).unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// Whether an event with this detail was counted.
async fn is_counted(gateway: std::net::SocketAddr, event: &str, detail: &str) -> bool {
    let figures = ask(Request::get(format!("http://{gateway}/-/metrics")).body(full("")).unwrap()).await;
    let (event, detail) = (format!("event=\"{event}\""), format!("detail=\"{detail}\""));
    read(figures.into_body()).await.0.lines().any(|line| line.contains(&event) && line.contains(&detail))
}

#[tokio::test]
async fn a_model_that_gives_no_json_is_asked_again() {
    let (model, url) = Model::start(&[r#"{"born": "in 1815"}"#, "Here it is:\n```json\n{\"born\": 1815}\n```"]).await;
    let checking = gateway(&["--upstream", &url, "--structured", "on"]).await;
    let answer = ask(for_json(checking.addr)).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("x-gateway-output")), (200, None));
    assert_eq!(text(answer).await, r#"{"born": 1815}"#);
    assert_eq!(model.calls(), 2);
    let asked = model.asked.lock().await.clone();
    assert_eq!(asked["messages"].as_array().unwrap().len(), 3, "with its answer and what is wrong with it: {asked}");
    assert!(is_counted(checking.addr, "output_asked_again", "schema").await);
    assert!(!is_counted(checking.addr, "output_invalid", "schema").await);

    let (model, url) = Model::start(&[r#"{"born": "in 1815"}"#]).await;
    let passing = gateway(&["--upstream", &url]).await;
    assert_eq!(text(ask(for_json(passing.addr)).await).await, r#"{"born": "in 1815"}"#);
    assert_eq!(model.calls(), 1, "off is the default");
}

#[tokio::test]
async fn an_answer_that_stays_wrong_is_marked_and_a_fallback_may_do_better() {
    let (wrong, url) = Model::start(&["I do not know."]).await;
    let marking = gateway(&["--upstream", &url, "--structured", "on", "--structured-reasks", "1"]).await;
    for _ in 0..2 {
        // The second is the double click: it gets the same answer with the same mark.
        let answer = ask(for_json(marking.addr)).await;
        let mark = answer.headers().get("x-gateway-output").cloned();
        assert_eq!((answer.status().as_u16(), mark), (200, Some("invalid".parse().unwrap())));
    }
    assert_eq!(wrong.calls() % 2, 0, "each call is asked again once");

    let (_, right) = Model::start(&[r#"{"born": 1815}"#]).await;
    let options = ["--upstream", &url, "--fallback", &right, "--structured", "on", "--structured-reasks", "0"];
    let falling_back = gateway(&options).await;
    let answer = ask(for_json(falling_back.addr)).await;
    assert_eq!(answer.headers()["x-gateway-served-by"], "fallback");
    assert_eq!(answer.headers().get("x-gateway-output"), None);
    assert_eq!(text(answer).await, r#"{"born": 1815}"#);
}

/// An embeddings server: texts about France are near each other. It returns the requests that it received.
async fn embeddings() -> (String, Arc<Mutex<Vec<(HeaderMap, Value)>>>) {
    type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;
    async fn answer(State(seen): State<Seen>, headers: HeaderMap, Json(request): Json<Value>) -> Json<Value> {
        let near = |text: &Value| if text.as_str().unwrap().contains("France") { [1.0, 0.1] } else { [0.0, 1.0] };
        let vectors = request["input"].as_array().unwrap().iter().enumerate();
        let data: Vec<_> = vectors.map(|(index, text)| json!({"index": index, "embedding": near(text)})).collect();
        seen.lock().await.push((headers, request));
        Json(json!({"data": data}))
    }
    let seen = Seen::default();
    let app = Router::new().route("/base/v1/embeddings", post(answer)).with_state(seen.clone());
    (format!("http://{}/base/v1/embeddings", serve(app).await), seen)
}

#[tokio::test]
async fn the_answer_to_a_similar_request_stands_in_and_says_so() {
    let (url, seen) = embeddings().await;
    let options = [
        "--last-good",
        "on",
        "--similar",
        "0.9",
        "--embeddings",
        &url,
        "--embeddings-model",
        "small",
        "--attempts",
        "1",
        "--embeddings-header",
        "x-api-key=CARGO_PKG_NAME",
        "--trust-callers",
        "--dedup",
        "off",
        "--breaker",
        "off",
    ];
    let gateway = gateway(&options).await;
    let say = |text: &'static str, fault: &'static str| {
        let body = json!({"model": "sim", "messages": [{"role": "user", "content": text}]});
        ask(Request::post(format!("http://{}/v1/chat/completions", gateway.addr))
            .header("content-type", "application/json")
            .header("authorization", "Bearer alice")
            .header("x-fault", fault)
            .body(full(body.to_string()))
            .unwrap())
    };
    let good = text(say("What is the capital of France?", "").await).await;
    // The answer is kept after it is embedded, which follows the call.
    let similar = soon(async {
        loop {
            let answer = say("Tell me the capital of France", "status=503").await;
            if answer.status() == StatusCode::OK {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let similar = similar.await;
    assert_eq!(similar.headers()["x-gateway-served-by"], "similar");
    assert_eq!(text(similar).await, good);
    assert_eq!(say("What is the capital of Spain?", "status=503").await.status(), 503);
    assert_eq!(text(say("What is the capital of France?", "status=503").await).await, good);
    for (kind, counted) in [("similar", true), ("exact", true), ("template", false)] {
        assert_eq!(is_counted(gateway.addr, "stale_served", kind).await, counted, "{kind}");
    }

    let seen = seen.lock().await;
    for (headers, request) in &*seen {
        assert_eq!(request["model"], "small");
        assert_eq!(headers["x-api-key"], env!("CARGO_PKG_NAME"));
        assert!(!headers.contains_key("authorization"), "not the caller's: {headers:?}");
    }
    assert!(!seen.is_empty());
}
