//! Which answers are readable event streams, and which requests ask for one.

use http::header::ACCEPT;
use http::{Extensions, HeaderMap, Request, Uri};

use super::list;
use super::media_type;

/// The kind of a response's body, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventStream {
    /// `text/event-stream`, without an encoding.
    Plain,
    /// `text/event-stream`, under a content encoding.
    Encoded,
    /// Something else.
    No,
}

/// Marks a request, in its extensions, whose answer will be a stream though its `Accept` does not say so. The SDKs of
/// model providers send `Accept: application/json` with `"stream": true`.
///
/// [`InspectRequestLayer::llm`](crate::InspectRequestLayer::llm), a part of the presets for models, sets it by the body.
/// [`FirstByteTimeoutLayer::answer`](crate::FirstByteTimeoutLayer::answer) and
/// [`SseHeartbeatLayer::before_headers`](crate::SseHeartbeatLayer::before_headers) read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectsEventStream;

// === impl EventStream ===

impl EventStream {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if !media_type::is_event_stream(headers) {
            return Self::No;
        }
        if media_type::is_encoded(headers) { Self::Encoded } else { Self::Plain }
    }
}

/// Whether this request asks for a stream.
pub(crate) fn is_expected<B>(request: &Request<B>) -> bool {
    is_marked(request.extensions()) || is_accepted(request.headers()) || is_in_path(request.uri())
}

pub(crate) fn is_marked(extensions: &Extensions) -> bool {
    extensions.get::<ExpectsEventStream>().is_some()
}

/// Whether `Accept` names `text/event-stream` (RFC 9110, 12.5.1). A range such as `*/*` names nothing.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    let is_refused = |part: &[u8]| {
        let weight = part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="));
        weight.is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
    };
    list::members(headers, &ACCEPT)
        .any(|member| list::names(member, "text/event-stream") && !list::parts(member).any(is_refused))
}

/// Google's APIs name it in the path: Gemini's and Vertex AI's methods.
fn is_in_path(uri: &Uri) -> bool {
    let method = uri.path().rsplit(':').next();
    matches!(method, Some("streamGenerateContent" | "streamRawPredict"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

    use super::*;

    #[test]
    fn only_an_unencoded_event_stream_is_plain() {
        let of = |content_type: &'static str, encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            headers.extend(encoding.map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))));
            EventStream::of(&headers)
        };
        assert_eq!(of("text/event-stream", None), EventStream::Plain);
        assert_eq!(of("Text/Event-Stream ; charset=utf-8", Some("identity")), EventStream::Plain);
        assert_eq!(of("text/event-stream", Some("gzip")), EventStream::Encoded);
        assert_eq!(of("text/event-stream", Some("identity, br")), EventStream::Encoded);
        assert_eq!(of("text/event-streams", None), EventStream::No);
        assert_eq!(of("application/json", None), EventStream::No);
        assert_eq!(EventStream::of(&HeaderMap::new()), EventStream::No);
    }

    #[test]
    fn an_accept_must_name_event_streams() {
        let expects =
            |accept: &'static str| is_accepted(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]));
        assert!(expects("text/event-stream"));
        assert!(expects("application/json, Text/Event-Stream ;q=0.5"));
        assert!(!expects("*/*"));
        assert!(!expects("text/*"));
        assert!(!expects("text/event-stream;q=0, application/json"));
        assert!(!expects("text/event-stream; q=0.000"));
        assert!(!expects("text/event-streams"));
        assert!(!expects(""));
    }

    #[test]
    fn a_mark_and_some_paths_say_it_too() {
        let expects = |path: &str| is_expected(&Request::get(path).body(()).unwrap());
        assert!(expects("/v1beta/models/g:streamGenerateContent?alt=sse"));
        assert!(expects("/v1/publishers/anthropic/models/c:streamRawPredict"));
        assert!(!expects("/v1beta/models/g:generateContent"));
        assert!(!expects("/v1/chat/completions"));
        assert!(is_expected(&Request::get("/v1/chat/completions").extension(ExpectsEventStream).body(()).unwrap()));
    }
}
