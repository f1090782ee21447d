//! Which responses the layer changes, and their heads.

use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;

use crate::proto::dialect::Kind;
use crate::proto::digests;
use crate::proto::event_stream::EventStream;
use crate::proto::media_type::{BodyForm, NDJSON};
use crate::proto::{bodiless, list, retry_after};

/// Tells nginx not to buffer the stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// In a response's extensions: its head was sent before there was an answer, and says nothing about it. See
/// [`SseHeartbeatLayer::before_headers`](crate::SseHeartbeatLayer::before_headers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadersSentEarly;

/// How the layer handles a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerKind {
    EventStream,
    /// One line of JSON per event, from Ollama: no heartbeats, but it may end with an error.
    JsonLines,
    /// An event stream that must pass unchanged, for this reason.
    Untouched(&'static str),
    /// Not a stream of this layer.
    Other,
}

// === impl AnswerKind ===

impl AnswerKind {
    pub(super) fn of<B: Body>(response: &Response<B>, kind: Option<Kind>) -> Self {
        let status = response.status();
        if !status.is_success() || bodiless::with_status(status) || response.body().is_end_stream() {
            return Self::Other;
        }
        let headers = response.headers();
        match EventStream::of(headers) {
            EventStream::No if kind == Some(Kind::Ollama) && is_json_lines(headers) => Self::JsonLines,
            EventStream::No => Self::Other,
            EventStream::Encoded => Self::Untouched("the event stream is compressed"),
            EventStream::Plain if status == StatusCode::PARTIAL_CONTENT => {
                Self::Untouched("the event stream is a part of one")
            }
            EventStream::Plain if headers.contains_key(CONTENT_LENGTH) => {
                Self::Untouched("the event stream has a Content-Length")
            }
            EventStream::Plain => Self::EventStream,
        }
    }
}

/// Whether this is the head of a stream that can follow heartbeats, or notices between JSON lines, whatever its other
/// fields.
pub(super) fn is_stream(status: StatusCode, headers: &HeaderMap, json_lines: bool) -> bool {
    let is_plain = if json_lines {
        BodyForm::of(headers) == BodyForm::JsonLines && !headers.contains_key(CONTENT_ENCODING)
    } else {
        EventStream::of(headers) == EventStream::Plain
    };
    status.is_success() && status != StatusCode::PARTIAL_CONTENT && !bodiless::with_status(status) && is_plain
}

/// Whether this is a stream of JSON lines to which a line can be added.
fn is_json_lines(headers: &HeaderMap) -> bool {
    BodyForm::of(headers) == BodyForm::JsonLines
        && ![CONTENT_LENGTH, CONTENT_ENCODING].iter().any(|name| headers.contains_key(name))
}

/// Whether `Cache-Control` says `no-transform`.
pub(super) fn no_transform(headers: &HeaderMap) -> bool {
    list::members(headers, &CACHE_CONTROL).any(|directive| directive.eq_ignore_ascii_case(b"no-transform"))
}

/// The head of a stream whose answer is not there yet.
pub(super) fn early(json_lines: bool, forbids_retry: bool) -> Response<()> {
    let mut response = Response::new(());
    let content_type = if json_lines { NDJSON } else { "text/event-stream" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    adapt(response.headers_mut());
    if forbids_retry {
        retry_after::forbid_retry(response.headers_mut());
    }
    response.extensions_mut().insert(HeadersSentEarly);
    response
}

/// Corrects the head of a stream to which bytes are added.
pub(super) fn adapt(headers: &mut HeaderMap) {
    forget_bytes(headers);
    headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
}

/// Removes the fields that are wrong once bytes were added, from the head or from trailers.
pub(super) fn forget_bytes(headers: &mut HeaderMap) {
    digests::remove(headers);
    headers.remove(ACCEPT_RANGES);
}
