//! What a request asks of a model, as far as layers need to know.

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{Method, Uri};

use crate::proto::dialect::Kind;
use crate::proto::event_stream::{self, ExpectsEventStream};
use crate::proto::json_object;
use crate::proto::media_type::is_json;

/// Whether reading this request can tell more than its head.
pub(super) fn is_unclear(head: &Parts) -> bool {
    head.method == Method::POST
        && is_json(&head.headers)
        && !head.headers.contains_key(CONTENT_ENCODING)
        && !event_stream::is_marked(&head.extensions)
        && !event_stream::is_accepted(&head.headers)
}

/// Marks a request whose answer is to be a stream.
pub(super) fn mark(head: &mut Parts, body: &Bytes) {
    if asks_for_stream(&head.uri, body) {
        head.extensions.insert(ExpectsEventStream);
    }
}

/// Whether the request says `"stream": true`; to Ollama, whether it does not say `false`.
fn asks_for_stream(uri: &Uri, body: &[u8]) -> bool {
    let said = json_object::members(body).find(|(key, _)| *key == b"stream").map(|(_, value)| value);
    match Kind::of_path(uri.path()) {
        Some(Kind::Ollama) => said != Some(b"false"),
        _ => said == Some(b"true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_asked_for_in_the_object_itself() {
        let asks = |path: &'static str, body: &str| asks_for_stream(&Uri::from_static(path), body.as_bytes());
        let chat = "/v1/chat/completions";
        assert!(asks(chat, r#"{"model":"m","stream":true}"#));
        assert!(asks(chat, "{\n  \"stream\" : true\n}"));
        for other in [r#"{"stream":false}"#, r#"{"metadata":{"stream":true}}"#, r#"{"stream":"true"}"#, "{}", "stream"]
        {
            assert!(!asks(chat, other), "{other}");
        }
        assert!(asks("/api/chat", r#"{"model":"m"}"#));
        assert!(!asks("/api/chat", r#"{"model":"m","stream":false}"#));
    }
}
