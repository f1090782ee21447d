//! The content type of a message.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

/// In which form a body comes, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// One value, by the name of the type or by its suffix (RFC 6839, 3.1).
    Json,
    EventStream,
    /// A value of JSON per line.
    JsonLines,
    Other,
}

/// What Ollama sends.
pub(crate) const NDJSON: &str = "application/x-ndjson";

const EVENT_STREAM: &[u8] = b"text/event-stream";

const JSON_LINES: [&[u8]; 5] = [
    NDJSON.as_bytes(),
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonlines",
    b"application/stream+json",
];

// === impl BodyForm ===

impl BodyForm {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        const SUFFIX: &[u8] = b"+json";
        let essence = essence(headers);
        let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
        let suffix = || essence.len().checked_sub(SUFFIX.len()).map(|at| &essence[at..]);
        if is(b"application/json") {
            Self::Json
        } else if is(EVENT_STREAM) {
            Self::EventStream
        } else if JSON_LINES.into_iter().any(is) {
            Self::JsonLines
        } else if suffix().is_some_and(|suffix| suffix.eq_ignore_ascii_case(SUFFIX)) {
            Self::Json
        } else {
            Self::Other
        }
    }
}

/// The type and subtype of the content, without parameters, as written. Empty if absent.
pub(crate) fn essence(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether the content is one value of JSON, by the name of its type or by its suffix `+json`.
///
/// ```
/// use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
/// use tower_buttress::proto::media_type;
///
/// let of = |value| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
/// assert!(media_type::is_json(&of("application/json; charset=utf-8")));
/// assert!(!media_type::is_json(&of("application/x-ndjson")));
/// ```
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    BodyForm::of(headers) == BodyForm::Json
}

pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    essence(headers).eq_ignore_ascii_case(EVENT_STREAM)
}

/// Whether the content is compressed, or in another encoding.
///
/// ```
/// use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
/// use tower_buttress::proto::media_type;
///
/// assert!(media_type::is_encoded(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))])));
/// ```
#[must_use]
pub fn is_encoded(headers: &HeaderMap) -> bool {
    let is_identity = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    !headers.get_all(CONTENT_ENCODING).iter().all(is_identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_body_is_known_by_its_type() {
        let of = |value| BodyForm::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]));
        for json in ["application/json", "Application/JSON ; charset=utf-8", "application/merge-patch+json"] {
            assert_eq!(of(json), BodyForm::Json, "{json}");
        }
        assert_eq!(of("Text/Event-Stream; charset=utf-8"), BodyForm::EventStream);
        for lines in ["application/x-ndjson", "application/ndjson", "Application/JSONL;v=1", "application/stream+json"]
        {
            assert_eq!(of(lines), BodyForm::JsonLines, "{lines}");
        }
        for other in ["", "json", "application/jsonlines", "application/grpc", "text/plain; +json", "+jso", "+jsoN2"] {
            assert_eq!(of(other), BodyForm::Other, "{other}");
        }
        assert_eq!(BodyForm::of(&HeaderMap::new()), BodyForm::Other);
    }
}
