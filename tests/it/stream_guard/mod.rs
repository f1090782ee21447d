//! Answers of LLM APIs that are not what they seem to be.

use std::convert::Infallible;

use http::{Method, Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::error::UpstreamError;
use tower_buttress::stream_guard::StreamGuardBody;
use tower_buttress::{Rejection, StreamGuardLayer};

use crate::support::{Script, Step, read};

mod answers;
mod compressed;
mod cuts;
mod errors;
mod foreign;
mod guard;
mod memory;
mod prelude;
mod stack;
mod unread;

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str =
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
const ROLE: &str = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const STOP: &str =
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const OVERLOADED: &str =
    "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":null}}\n\n";

/// What an upstream answers.
struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    steps: Vec<Step>,
    sized: bool,
}

impl Answer {
    fn stream(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::of(200, "text/event-stream", steps)
    }

    fn json(status: u16, body: &'static str) -> Self {
        Self::of(status, "application/json", [Step::Data(body)])
    }

    fn of(status: u16, content_type: &'static str, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { status, content_type, headers: Vec::new(), steps: steps.into_iter().collect(), sized: false }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its length is known.
    fn sized(self) -> Self {
        Self { sized: true, ..self }
    }

    fn response(&self) -> Response<Script> {
        let response = Response::builder().status(self.status).header("content-type", self.content_type);
        let response = self.headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
        let body = Script::new(self.steps.clone());
        response.body(if self.sized { body } else { body.unsized_() }).unwrap()
    }
}

/// Asks for `path` through `layer`.
async fn ask(layer: StreamGuardLayer, method: Method, path: &str, answer: Answer) -> Response<StreamGuardBody<Script>> {
    let upstream = service_fn(move |_: Request<()>| {
        let response = answer.response();
        async { Ok::<_, Infallible>(response) }
    });
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    layer.layer(upstream).oneshot(request).await.unwrap()
}

async fn post(path: &str, answer: Answer) -> Response<StreamGuardBody<Script>> {
    ask(StreamGuardLayer::new(), Method::POST, path, answer).await
}

async fn chat(steps: impl IntoIterator<Item = Step>) -> Response<StreamGuardBody<Script>> {
    post(CHAT, Answer::stream(steps)).await
}

/// The status and the code of a refusal that was made of an upstream's error.
fn status_and_code<B>(response: &Response<B>) -> Option<(u16, String)> {
    let rejection = Rejection::of(response)?;
    let error = tower_buttress::error::find::<UpstreamError>(rejection as &(dyn std::error::Error + 'static))?;
    assert_eq!(error.status(), response.status());
    Some((error.status().as_u16(), error.code().or(error.type_name()).unwrap_or_default().to_owned()))
}
