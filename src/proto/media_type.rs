//! The content type of a message.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

/// The type and subtype of the content, without parameters, as written. Empty if absent.
pub(crate) fn essence(headers: &HeaderMap) -> &[u8] {
    let value = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether it is JSON, by its name or by its suffix (RFC 6839, 3.1).
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    const SUFFIX: &[u8] = b"+json";
    let essence = essence(headers);
    let suffix = essence.len().checked_sub(SUFFIX.len()).map(|at| &essence[at..]);
    essence.eq_ignore_ascii_case(b"application/json") || suffix.is_some_and(|s| s.eq_ignore_ascii_case(SUFFIX))
}

/// Whether the content is compressed, or in another encoding.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let is_identity = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    !headers.get_all(CONTENT_ENCODING).iter().all(is_identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_type() {
        let say = |value| is_json(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]));
        for json in ["application/json", "Application/JSON ; charset=utf-8", "application/merge-patch+json"] {
            assert!(say(json), "{json}");
        }
        for other in ["", "json", "application/jsonl", "application/grpc", "text/plain; +json", "+jso"] {
            assert!(!say(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
