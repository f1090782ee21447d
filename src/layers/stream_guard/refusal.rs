//! The reports of an upstream's error, for callers and the layers outside.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRAILER, TRANSFER_ENCODING,
};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::config::Config;
use super::state::{Failure, StreamState};
use crate::error::{StreamTruncated, UpstreamError};
use crate::policy::fault::{judge, known_name};
use crate::proto::dialect::{Fault, Framing, Kind, StreamError};
use crate::proto::digests;
use crate::proto::retry_after::retry_after;
use crate::proto::sse::LineEnding;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The error for an error event, as the body's error or as the source of a refusal.
pub(super) fn stream_error(state: &StreamState, failure: &Failure, headers: &HeaderMap) -> UpstreamError {
    let error = judged(Some(&failure.fault), None, headers, state.config());
    let frame = frame(state, failure, &error);
    error.with_frame(frame)
}

/// Judges an error. `status`: the status of its answer, if it is an answer of its own.
pub(super) fn judged(
    fault: Option<&Fault>,
    status: Option<StatusCode>,
    headers: &HeaderMap,
    config: &Config,
) -> UpstreamError {
    let judgement = judge(fault, status, headers, config.filtered, clock::wall());
    let error = UpstreamError::new(judgement.status, judgement.verdict).with_retry_after(judgement.retry_after);
    match fault {
        Some(fault) => error
            .with_names(fault.code(), fault.type_name())
            .with_known_name(known_name(fault))
            .with_message(fault.message()),
        None => error,
    }
}

/// Notes in the extensions of a refusing answer when to retry, if only its rate-limit headers say so.
pub(super) fn note_limits<B>(response: &mut Response<B>, config: &Config) {
    if !matches!(response.status().as_u16(), 429 | 503 | 529) || retry_after(response.headers()).is_some() {
        return;
    }
    let error = judged(None, Some(response.status()), response.headers(), config);
    if error.retry_after().is_some() {
        response.extensions_mut().insert(error);
    }
}

/// The event for the caller: the upstream's own if the dialect's clients raise it, else one in their form.
fn frame(state: &StreamState, failure: &Failure, error: &UpstreamError) -> String {
    let (kind, ending) = (state.kind(), state.line_ending());
    let own = match state.framing() {
        // An incomplete array has no place for an error: the caller sees that it breaks off.
        Framing::Array => return String::new(),
        Framing::Lines => format!("{}\n", String::from_utf8_lossy(&failure.data)),
        Framing::EventStream => own_event(failure, ending),
    };
    if is_raised(kind, failure) {
        return own;
    }
    let written = written(error).sequence(state.next_sequence()).frame(state.kind_as_framed(), ending);
    // Clients of this event also expect the last state of the response.
    let names_response = kind == Some(Kind::OpenAiResponses) && failure.name == "response.failed";
    if names_response { own + &written } else { written }
}

fn written(error: &UpstreamError) -> StreamError<'_> {
    let mut written = StreamError::of_status(error.status().as_u16());
    if let Some(name) = error.type_name() {
        written = written.type_name(name);
    }
    if let Some(code) = error.code() {
        written = written.code(code);
    }
    if error.message().is_empty() {
        written.message("The upstream's answer contains an error.")
    } else {
        written.message(error.message())
    }
}

/// Whether the official clients of the dialect raise this event unchanged.
fn is_raised(kind: Option<Kind>, failure: &Failure) -> bool {
    if failure.misplaced {
        return false;
    }
    let Ok(Value::Object(data)) = serde_json::from_slice(&failure.data) else { return kind.is_none() };
    let error = data.get("error");
    let has_object = error.is_some_and(Value::is_object);
    match kind {
        // Vercel's provider ignores an error beside choices.
        Some(Kind::OpenAiChat) => has_object && !data.contains_key("choices"),
        // Vercel's validates each event.
        Some(Kind::OpenAiResponses) => {
            let is_numbered = data.get("sequence_number").is_some_and(Value::is_u64);
            has_object && is_numbered && failure.name == "error"
        }
        Some(Kind::Anthropic) => has_object && failure.name == "error",
        // Its Python client checks only this.
        Some(Kind::Gemini) => failure.data.starts_with(b"{\"error\":") && failure.name.is_empty(),
        Some(Kind::Cohere) => failure.name == "message-end",
        Some(Kind::Ollama) => error.is_some_and(Value::is_string),
        None => true,
    }
}

fn own_event(failure: &Failure, ending: LineEnding) -> String {
    let data = String::from_utf8_lossy(&failure.data);
    let end = ending.as_str();
    let name = if failure.name.is_empty() { String::new() } else { format!("event: {}{end}", failure.name) };
    let data: String = data.lines().map(|line| format!("data: {line}{end}")).collect();
    name + &data + end
}

/// The body of a refusal made from an event or an answer: the upstream's JSON, if clients find the error in it.
pub(super) fn body_of(data: Bytes, kind: Option<Kind>, error: &UpstreamError) -> Bytes {
    let own = match serde_json::from_slice(&data) {
        Ok(Value::Object(data)) => {
            let named = data.get("error").is_some_and(|error| {
                // A text beside a finish reason is Cohere's, whose clients read `message`.
                error.is_object() || error.is_string() && !data.contains_key("finish_reason")
            });
            // The flat form of Responses: clients read its members if there is no `error`.
            named || data.get("type").is_some_and(|name| name == "error")
        }
        _ => false,
    };
    if own { data } else { written(error).body(kind).into() }
}

/// Returns a refusal in place of an answer that contains an error.
pub(super) fn of_error(head: Parts, error: UpstreamError, body: Bytes) -> Response<Bytes> {
    let status = error.status();
    let wait = error.retry_after().map(|hint| hint.wait(clock::wall()));
    let mut rejection = Rejection::new(RejectionKind::UpstreamFailed).with_source(error);
    if let Some(wait) = wait {
        rejection = rejection.with_retry_after(wait);
    }
    refuse(head, status, rejection, body)
}

/// Returns a refusal in place of an answer that was truncated before its first forwarded byte.
pub(super) fn of_truncated(head: Parts, truncated: StreamTruncated) -> Response<Bytes> {
    let body = truncated.body();
    let rejection = Rejection::new(RejectionKind::UpstreamFailed).with_source(truncated);
    refuse(head, StatusCode::BAD_GATEWAY, rejection, body.into())
}

/// Keeps request ids and limits in the upstream's head.
fn refuse(head: Parts, status: StatusCode, rejection: Rejection, body: Bytes) -> Response<Bytes> {
    let mut response = Response::from_parts(head, body);
    *response.status_mut() = status;
    let length = response.body().len();
    let headers = response.headers_mut();
    for name in [CONTENT_ENCODING, TRANSFER_ENCODING, TRAILER, CACHE_CONTROL] {
        headers.remove(name);
    }
    digests::remove(headers);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let (Some(wait), false) = (rejection.retry_after(), headers.contains_key(RETRY_AFTER)) {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response.extensions_mut().insert(rejection);
    response
}
