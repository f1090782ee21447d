//! Answers that parse, and have the form that was asked for.

mod answers;
mod reasks;
mod together;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, InvalidOutput, OutputFault, OutputUsage, StructuredOutputLayer};

use crate::support::{Script, Step};

/// What the model says to a call.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// This, and it is whole.
    Text(&'static str),
    /// This body.
    Raw(u16, Vec<(&'static str, &'static str)>, Vec<Step>),
    Break,
}

/// A model that says what it is told to, in turn, and remembers what it was asked.
#[derive(Clone, Default)]
pub(crate) struct Model {
    says: Arc<Mutex<VecDeque<Says>>>,
    pub(crate) asked: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

pub(crate) const GOOD: &str = r#"{"city":"Paris"}"#;
pub(crate) const BAD: &str = r#"{"town":"Paris"}"#;

impl Model {
    pub(crate) fn new(says: &[Says]) -> Self {
        Self { says: Arc::new(Mutex::new(says.iter().cloned().collect())), asked: Arc::default() }
    }

    pub(crate) fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn service(
        &self,
    ) -> impl Service<Request<CallBody>, Response = Response<Script>, Error = io::Error, Future: Send>
    + Clone
    + Send
    + Sync
    + use<> {
        let this = self.clone();
        service_fn(move |request: Request<CallBody>| {
            let this = this.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                this.asked.lock().unwrap().push((head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null)));
                let says = this.says.lock().unwrap().pop_front().expect("a call more than expected");
                match says {
                    Says::Text(text) => {
                        let body = Box::leak(answer(text).into_boxed_str());
                        Ok(reply(
                            200,
                            &[("content-type", "application/json"), ("etag", "\"e\"")],
                            vec![Step::Data(body)],
                        ))
                    }
                    Says::Raw(status, headers, steps) => Ok(reply(status, &headers, steps)),
                    Says::Break => Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
        })
    }
}

fn reply(status: u16, headers: &[(&str, &str)], steps: Vec<Step>) -> Response<Script> {
    let response = Response::builder().status(status);
    let response = headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
    let length: usize = steps.iter().map(|step| if let Step::Data(data) = step { data.len() } else { 0 }).sum();
    response.header("content-length", length).body(Script::new(steps).unsized_()).unwrap()
}

/// A whole answer of the chat completions API.
pub(crate) fn answer(text: &str) -> String {
    json!({
        "id": "c", "choices": [{ "index": 0, "message": { "content": text }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5 },
    })
    .to_string()
}

pub(crate) fn schema() -> Value {
    json!({
        "type": "object", "required": ["city"], "additionalProperties": false,
        "properties": { "city": { "type": "string" } },
    })
}

pub(crate) fn request_with(format: &Value) -> Request<Full<Bytes>> {
    let body =
        json!({ "model": "m", "messages": [{ "role": "user", "content": "Which?" }], "response_format": format });
    post("/v1/chat/completions", &body)
}

pub(crate) fn request() -> Request<Full<Bytes>> {
    request_with(&json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema() } }))
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = body.to_string();
    let request = Request::post(path).header("authorization", "Bearer a").header("content-length", body.len());
    request.body(Full::from(body)).unwrap()
}

pub(crate) const STREAM_END: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// An event of a stream.
pub(crate) fn chunk(text: &str) -> &'static str {
    let chunk = json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] });
    Box::leak(format!("data: {chunk}\n\n").into_boxed_str())
}

/// A whole stream with this text.
pub(crate) fn held_stream(parts: &[&str]) -> Says {
    let steps = parts.iter().map(|part| Step::Data(chunk(part))).chain([Step::Data(STREAM_END)]).collect();
    Says::Raw(200, vec![("content-type", "text/event-stream")], steps)
}

pub(crate) fn streaming_request() -> Request<Full<Bytes>> {
    let format = json!({ "type": "json_schema", "json_schema": { "schema": schema() } });
    let messages = json!([{ "role": "user", "content": "Which?" }]);
    post("/v1/chat/completions", &json!({ "stream": true, "messages": messages, "response_format": format }))
}

/// What came of a call.
#[derive(Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) fault: Option<OutputFault>,
    pub(crate) calls: Option<u32>,
}

pub(crate) async fn send<S, B>(service: &S, request: Request<Full<Bytes>>) -> Got
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError> + std::fmt::Debug,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let fault = InvalidOutput::of(&response).map(|invalid| invalid.fault);
    let calls = response.extensions().get::<OutputUsage>().map(|usage| usage.calls);
    let status = response.status().as_u16();
    let length: Option<usize> =
        response.headers().get("content-length").map(|length| length.to_str().unwrap().parse().unwrap());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(length.is_none_or(|length| length == body.len()), "the length is right");
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = value["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    Got { status, text: said.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned()), fault, calls }
}

pub(crate) fn got(text: &str, fault: Option<OutputFault>, calls: u32) -> Got {
    Got { status: 200, text: text.to_owned(), fault, calls: Some(calls) }
}
