//! Streams that break, and go on.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CallBody, NoRetry, PinTo, ResumeLayer};

use crate::support::{Log, Script, Step, read};

mod bounds;
mod cursors;
mod lies;
mod refused_cursor;
mod restart;
mod sockets;
mod stack;
mod usage;

/// What an upstream says, one answer after another, and what it was asked.
#[derive(Clone, Default)]
pub(super) struct Upstream {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// An answer: an event stream, a status, or none.
#[derive(Clone)]
pub(super) enum Answer {
    Stream(Vec<Step>),
    Status(u16, &'static str),
    Lost,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) pin: Option<PinTo>,
    pub(super) no_retry: bool,
    pub(super) at: tokio::time::Instant,
}

pub(super) fn stream(steps: impl IntoIterator<Item = Step>) -> Answer {
    Answer::Stream(steps.into_iter().collect())
}

impl Upstream {
    pub(super) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), asked: Arc::default() }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) async fn answer(self, request: Request<CallBody>) -> Result<Response<Script>, io::Error> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_or_else(|err| err.to_string(), |body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        self.asked.lock().unwrap().push(Asked {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            body,
            pin: head.extensions.get::<PinTo>().cloned(),
            no_retry: head.extensions.get::<NoRetry>().is_some(),
            at: tokio::time::Instant::now(),
        });
        let answer = self.answers.lock().unwrap().pop_front().expect("no more requests than answers");
        let (status, content_type, steps) = match answer {
            Answer::Stream(steps) => (200, "text/event-stream", steps),
            Answer::Status(status, body) => (status, "application/json", vec![Step::Data(body)]),
            Answer::Lost => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        let response = Response::builder().status(status).header("content-type", content_type);
        let response = if status == 429 { response.header("retry-after", "2") } else { response };
        Ok(response.body(Script::new(steps).unsized_()).unwrap())
    }
}

/// What a call came to.
pub(super) struct Outcome {
    pub(super) text: String,
    pub(super) error: Option<String>,
    pub(super) asked: Vec<Asked>,
    pub(super) events: Vec<String>,
}

/// Sends a request through `layer`.
pub(super) async fn send(
    layer: ResumeLayer,
    request: Request<Full<Bytes>>,
    answers: impl IntoIterator<Item = Answer>,
) -> Outcome {
    let (upstream, log) = (Upstream::new(answers), Arc::new(Log::default()));
    let asked = upstream.clone();
    let service = layer.observer(log.clone()).layer(service_fn(move |request| upstream.clone().answer(request)));
    let response = service.oneshot(request).await.unwrap();
    let (text, error) = read(response).await;
    Outcome { text, error: error.map(|err| err.to_string()), asked: asked.asked(), events: log.names() }
}

pub(super) fn events(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header("accept", "text/event-stream")
        .header("authorization", "Bearer caller")
        .body(Full::default())
        .unwrap()
}

pub(super) fn post(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("content-type", "application/json")
        .header("authorization", "Bearer caller")
        .header("idempotency-key", "k")
        .body(Full::from(body))
        .unwrap()
}

/// Events with ids.
pub(super) const ONE: &str = "id: 1\ndata: one\n\n";
pub(super) const TWO: &str = "id: 2\ndata: two\n\n";
pub(super) const THREE: &str = "id: 3\ndata: three\n\n";
pub(super) const FOUR: &str = "id: 4\ndata: four\n\n";

pub(super) const MS: Duration = Duration::from_millis(1);
