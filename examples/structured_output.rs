//! Asks a model again that violates the schema, with the errors; extracts JSON that is wrapped in a sentence.
//!
//! ```sh
//! cargo run --example structured_output --features schema
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, InvalidOutput, OutputUsage, StructuredOutputLayer};

/// The model's answers, in turn.
const SAID: [&str; 2] = [
    r#"{"name": "Ada Lovelace", "born": "in 1815"}"#,
    "Sorry! Here it is:\n```json\n{\"name\": \"Ada Lovelace\", \"born\": 1815,}\n```",
];

async fn model(Json(request): Json<Value>) -> Json<Value> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    if let Some(Value::String(complaint)) = request.pointer("/messages/2/content") {
        println!("the model is told: {complaint}\n");
    }
    let said = SAID[CALLS.fetch_add(1, Ordering::Relaxed) % SAID.len()];
    println!("the model says: {said}\n");
    Json(json!({
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": said }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 30, "completion_tokens": 20 },
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1/chat/completions", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/v1/chat/completions", post(model))).into_future());

    let client = Client::builder(TokioExecutor::new()).build_http::<CallBody>();
    let service = StructuredOutputLayer::new().layer(client);
    let schema = json!({
        "type": "object", "required": ["name", "born"],
        "properties": { "name": { "type": "string" }, "born": { "type": "integer" } },
    });
    let body = json!({
        "model": "m", "messages": [{ "role": "user", "content": "Who wrote the first program?" }],
        "response_format": { "type": "json_schema", "json_schema": { "name": "person", "schema": schema } },
    });
    let request = Request::post(url).header("content-type", "application/json");
    let response = service.oneshot(request.body(Full::<Bytes>::from(body.to_string()))?).await?;

    assert_eq!(InvalidOutput::of(&response), None);
    let usage = response.extensions().get::<OutputUsage>().copied().unwrap_or_default();
    let answer: Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    println!("the caller reads: {}", answer["choices"][0]["message"]["content"].as_str().unwrap_or_default());
    println!("{} calls, {} tokens of answers", usage.calls, usage.usage.output.unwrap_or(0));
    Ok(())
}
