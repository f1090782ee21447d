//! Reads what layers need to know of a generation request.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{Method, Uri};
use memchr::memchr;

use crate::call::Model;
use crate::proto::dialect::Kind;
use crate::proto::event_stream::{self, ExpectsEventStream};
use crate::proto::json_object;
use crate::proto::media_type::is_json;

/// No provider has a longer name.
const LONGEST_MODEL: usize = 128;

/// The facts in the body.
#[derive(Debug, Default)]
struct BodyFacts<'a> {
    /// As written.
    model: Option<&'a [u8]>,
    stream: Option<&'a [u8]>,
}

/// Whether reading this request may add facts to its head.
pub(super) fn is_unclear(head: &Parts) -> bool {
    let streams = || event_stream::is_marked(&head.extensions) || event_stream::is_accepted(&head.headers);
    head.method == Method::POST
        && is_json(&head.headers)
        && !head.headers.contains_key(CONTENT_ENCODING)
        && !(Model::in_extensions(&head.extensions).is_some() && streams())
}

/// Marks a request whose answer should stream, and notes its model; APIs with the model in the path use no other.
pub(super) fn mark(head: &mut Parts, body: &Bytes) {
    let said = BodyFacts::of(body);
    if said.asks_for_stream(&head.uri) {
        head.extensions.insert(ExpectsEventStream);
    }
    if Model::in_extensions(&head.extensions).is_none() {
        let model = Model::in_path(head.uri.path()).map(Model::new).or_else(|| said.model());
        model.map(|model| head.extensions.insert(model));
    }
}

// === impl Said ===

impl<'a> BodyFacts<'a> {
    fn of(body: &'a [u8]) -> Self {
        let mut said = Self::default();
        for (key, value) in json_object::members(body) {
            match key {
                b"model" => said.model = said.model.or(Some(value)),
                b"stream" => said.stream = said.stream.or(Some(value)),
                _ => continue,
            }
            if said.model.is_some() && said.stream.is_some() {
                break;
            }
        }
        said
    }

    /// Whether the request says `"stream": true`; to Ollama, whether it does not say `false`.
    fn asks_for_stream(&self, uri: &Uri) -> bool {
        match Kind::of_path(uri.path()) {
            Some(Kind::Ollama) => self.stream != Some(b"false"),
            _ => self.stream == Some(b"true"),
        }
    }

    fn model(&self) -> Option<Model> {
        let text = self.model?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        // Some writers escape each slash.
        let name = match memchr(b'\\', text) {
            Some(_) => Cow::from(std::str::from_utf8(text).ok()?.replace("\\/", "/")),
            None => Cow::from(std::str::from_utf8(text).ok()?),
        };
        let is_name = (1..=LONGEST_MODEL).contains(&name.len()) && !name.contains(['\\', '"']);
        (is_name && !name.chars().any(char::is_control)).then(|| Model::new(&*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_asked_for_in_the_object_itself() {
        let asks =
            |path: &'static str, body: &str| BodyFacts::of(body.as_bytes()).asks_for_stream(&Uri::from_static(path));
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

    fn model(path: &str, body: &'static str) -> Option<String> {
        let (mut head, ()) = http::Request::post(path).body(()).unwrap().into_parts();
        mark(&mut head, &Bytes::from_static(body.as_bytes()));
        Model::in_extensions(&head.extensions).map(str::to_owned)
    }

    #[test]
    fn a_model_is_named_in_the_path_or_in_the_object_itself() {
        let chat = "/v1/chat/completions";
        for (body, name) in [
            (r#"{"model":"m","stream":true}"#, Some("m")),
            (r#"{"messages":[{"model":"not"}],"stream":true,"model": "org\/m" }"#, Some("org/m")),
            (r#"{"model":7}"#, None),
            (r#"{"model":""}"#, None),
            (r#"{"model":"a\nb"}"#, None),
            (r#"{"messages":[]}"#, None),
            ("model", None),
        ] {
            assert_eq!(model(chat, body).as_deref(), name, "{body}");
        }
        assert_eq!(model("/v1beta/models/g:generateContent", r#"{"contents":[]}"#).as_deref(), Some("g"));
        assert_eq!(model("/openai/deployments/d/chat/completions", r#"{"model":"m"}"#).as_deref(), Some("d"));
    }

    #[test]
    fn what_the_application_said_of_the_model_stays() {
        let (mut head, ()) =
            http::Request::post("/v1/chat").extension(Model::new("own")).body(()).unwrap().into_parts();
        mark(&mut head, &Bytes::from_static(br#"{"model":"m","stream":true}"#));
        assert_eq!(Model::in_extensions(&head.extensions), Some("own"));
        assert!(event_stream::is_marked(&head.extensions));
    }
}
