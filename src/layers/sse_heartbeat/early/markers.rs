use http::header::ACCEPT;
use http::{Extensions, HeaderMap};

/// Marks a request, in its extensions, as one that is answered with an event stream, though its `Accept` does not say so:
/// the SDKs of model providers send `Accept: application/json` with `"stream": true`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectsEventStream;

/// Marks a response, in its extensions, as one that began before there was an answer: its head says nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadersSentEarly;

/// Whether whoever sent this can be answered with an event stream before it is known whether there is one.
pub(super) fn expects_event_stream(headers: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<ExpectsEventStream>().is_some()
        || headers.get_all(ACCEPT).iter().any(|value| value.as_bytes().split(|&byte| byte == b',').any(is_event_stream))
}

/// One member of an `Accept` (RFC 9110, 12.5.1). A range such as `*/*` names nothing.
fn is_event_stream(member: &[u8]) -> bool {
    let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let named = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"));
    let refused = |part: &[u8]| {
        let weight = part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="));
        weight.is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
    };
    named && !parts.any(refused)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_accept_must_name_event_streams() {
        let expects = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            expects_event_stream(&headers, &Extensions::new())
        };
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
    fn a_mark_says_it_too() {
        let mut extensions = Extensions::new();
        assert!(!expects_event_stream(&HeaderMap::new(), &extensions));
        extensions.insert(ExpectsEventStream);
        assert!(expects_event_stream(&HeaderMap::new(), &extensions));
    }
}
