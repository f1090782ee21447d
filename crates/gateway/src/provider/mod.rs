//! A simulated LLM provider: OpenAI's `/v1/chat/completions`, with faults on demand.
//!
//! Each call selects its faults in the header `x-fault`, in the query (`?fault=`) or in the model's name after a colon
//! (`sim:stall-after=3`); the first of these that is present counts. Semicolons separate several faults:
//!
//! | Fault | What happens |
//! |---|---|
//! | `status=429` | this status, with OpenAI's error object; `code=insufficient_quota` sets its code |
//! | `retry-after=2` | with it this `Retry-After`, as it stands (seconds or a date) |
//! | `retry-after-ms=1500`, `should-retry=false` | with it `retry-after-ms` or `x-should-retry`, as it stands |
//! | `silent` | the request is read and nothing is ever answered |
//! | `reset` | the connection is reset before the head |
//! | `head=3s` | the head comes late |
//! | `first-byte=3s` | the head comes at once, the first byte of the body late |
//! | `gap=100ms` | the time between two chunks (40 ms unless set) |
//! | `chunks=20`, `size=1000` | the number of chunks of content; the bytes that each is padded to |
//! | `first-word=3` | the content begins with its fourth word and comes back to the others: another answer to the same prompt |
//! | `comments=1s` | the head, and then keep-alive comments and nothing else |
//! | `stall-after=3` | silence after three chunks, the connection open |
//! | `torn-after=3` | the same, in the middle of a line |
//! | `comments-after=3` | keep-alive comments, one at each gap, and nothing else after three chunks |
//! | `reset-after=3` | the connection is reset after three chunks |
//! | `close-after=3` | the connection is closed after three chunks, the body unfinished |
//! | `truncate-after=3` | the body ends cleanly after three chunks, without `[DONE]` |
//! | `error-after=3` | an error object in the stream after three chunks, with the code that `code` names |
//! | `ids` | each event has an id, and the same request with `Last-Event-ID` is answered from the next one on |
//! | `times=2` | two such calls, then a healthy one, and so on; `id=x` counts apart from other equal scripts |
//!
//! A chunk is an event with content; in an answer that is not streamed, 32 bytes of it.

mod answer;
mod call;
mod script;
mod sockets;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::answer::Speech;
use self::call::ProviderCall;
pub use self::call::{Counts, ReceivedCall};
use self::script::{BadScript, Opening, Script};
use self::sockets::ProviderReset;
use self::wire::{ChatRequest, GeneratedAnswer};

/// A provider that runs until its runtime ends.
#[derive(Clone, Debug)]
pub struct Provider {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    counts: watch::Sender<Counts>,
    seen: Mutex<Vec<ReceivedCall>>,
    /// How many calls in a row followed each script with `times`.
    followed: Mutex<HashMap<String, u32>>,
}

/// Limit of scripts that are counted; beyond it, counting starts again.
const FOLLOWED: usize = 1024;

// === impl Provider ===

impl Provider {
    /// Starts a provider on a free loopback port.
    pub async fn start() -> io::Result<Self> {
        Self::start_behind(|app| app).await
    }

    /// Starts a provider with the routes that `before` adds in front of it.
    pub async fn start_behind(before: impl FnOnce(Router) -> Router) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            counts: watch::Sender::new(Counts::default()),
            seen: Mutex::default(),
            followed: Mutex::default(),
        });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .route("/", get(root))
            .with_state(shared.clone());
        tokio::spawn(sockets::serve(listener, before(app), shared.counts.clone()));
        Ok(Self { addr, shared })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until the counts satisfy `wanted`.
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        // `self` holds the sender, so the channel stays open.
        counts.wait_for(wanted).await.map_or_else(|_| self.counts(), |counts| *counts)
    }

    /// The calls received so far.
    pub fn seen(&self) -> Vec<ReceivedCall> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Shared ===

impl Shared {
    /// The script for this call, if it is this call's turn.
    fn script(&self, text: &str) -> Result<Script, BadScript> {
        let script = Script::parse(text)?;
        let Some(times) = script.times else { return Ok(script) };
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.len() >= FOLLOWED && !followed.contains_key(text) {
            followed.clear();
        }
        let count = followed.entry(text.to_owned()).or_default();
        if *count < times {
            *count += 1;
            Ok(script)
        } else {
            *count = 0;
            Ok(Script::default())
        }
    }
}

async fn chat(
    State(shared): State<Arc<Shared>>,
    Extension(reset): Extension<ProviderReset>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut call = ProviderCall::begin(&shared.counts);
    let asked = ChatRequest::parse(&body);
    let model = asked.as_ref().map_or("", |asked| &asked.model);
    let script = shared.script(&wanted(&headers, &uri, model));
    let after = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(ReceivedCall { headers, body });
    let script = match script {
        Ok(script) => script,
        Err(bad) => return refuse(call, &Script::default(), StatusCode::BAD_REQUEST, &bad.to_string()),
    };
    tokio::time::sleep(script.head).await;
    let status = match script.opening {
        Opening::Status(status) => status,
        Opening::Silent => std::future::pending().await,
        Opening::Reset => {
            call.finish();
            reset.now().await
        }
    };
    if status != StatusCode::OK {
        return refuse(call, &script, status, "This is a simulated failure.");
    }
    match asked {
        Err(wrong) => refuse(call, &script, StatusCode::BAD_REQUEST, wrong),
        Ok(asked) => speak(asked, after, script, reset, call),
    }
}

/// The text of the script; empty without one.
fn wanted(headers: &HeaderMap, uri: &Uri, model: &str) -> String {
    let header = headers.get("x-fault").and_then(|value| value.to_str().ok());
    let query = || uri.query()?.split('&').find_map(|pair| pair.strip_prefix("fault="));
    let model = || model.split_once(':').map(|(_, script)| script);
    header.or_else(query).or_else(model).unwrap_or_default().to_owned()
}

fn speak(
    asked: ChatRequest,
    after: Option<usize>,
    script: Script,
    reset: ProviderReset,
    call: ProviderCall,
) -> Response {
    let stream = asked.stream;
    let number = call.number;
    let answer = match script.ids {
        false => GeneratedAnswer::new(asked, number, script.chunks, script.size),
        true => GeneratedAnswer::kept(asked, script.chunks, script.size),
    };
    let answer = answer.rotated(script.first_word);
    let (content_type, speech) = if stream {
        ("text/event-stream; charset=utf-8", Speech::events(answer, after, script, reset, call))
    } else {
        ("application/json", Speech::object(&answer, script, reset, call))
    };
    let mut response = Response::new(speech.into_body());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    name_it(&mut response, number);
    response
}

fn refuse(mut call: ProviderCall, script: &Script, status: StatusCode, message: &str) -> Response {
    let body = wire::error(status, script.code.as_deref(), message);
    let mut response = (status, Json(body)).into_response();
    let hints = [
        (header::RETRY_AFTER, &script.retry_after),
        (HeaderName::from_static("retry-after-ms"), &script.retry_after_ms),
        (HeaderName::from_static("x-should-retry"), &script.should_retry),
    ];
    for (name, value) in hints {
        if let Some(value) = value {
            response.headers_mut().insert(name, value.clone());
        }
    }
    name_it(&mut response, call.number);
    call.finish();
    response
}

/// Numbers each answer, as OpenAI's answers have an id.
fn name_it(response: &mut Response<Body>, number: u64) {
    if let Ok(id) = HeaderValue::from_str(&format!("req_{number:08}")) {
        response.headers_mut().insert("x-request-id", id);
    }
}

async fn models() -> impl IntoResponse {
    Json(json!({"object": "list", "data": [{"id": "sim", "object": "model", "created": 0, "owned_by": "simulated"}]}))
}

/// Explains how to call the provider, at the URL in the gateway's first line.
async fn root() -> &'static str {
    "This is a simulated model provider. Stream an answer:\n\n  \
     curl -N \"$URL/v1/chat/completions\" -H 'content-type: application/json' \\\n    \
     -d '{\"model\":\"sim\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'\n\n\
     where URL is the address that you asked. The gateway before it has a page at /-/.\n"
}
