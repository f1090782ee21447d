//! Which responses are event streams whose bytes can be read.

use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue};

use super::media_type;

/// What a response's head says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventStream {
    /// `text/event-stream`, as it is.
    Plain,
    /// `text/event-stream`, under a content encoding.
    Encoded,
    /// Something else.
    No,
}

// === impl EventStream ===

impl EventStream {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if !media_type::essence(headers).eq_ignore_ascii_case(b"text/event-stream") {
            return Self::No;
        }
        let encoded = |value: &HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
        if headers.get_all(CONTENT_ENCODING).iter().any(encoded) { Self::Encoded } else { Self::Plain }
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

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
}
