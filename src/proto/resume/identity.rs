//! Whether events belong to the answer that they claim to continue.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use memchr::memmem;
use serde_json::{Map, Value};

use crate::proto::dialect::Kind;

/// The ids of an answer.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// The answer's id, or empty.
    id: String,
    /// In Responses the ids of its items, as hashes.
    items: HashSet<u64>,
}

/// The items of a larger answer are not checked.
const MAX_ITEMS: usize = 1024;
const MAX_ID: usize = 512;

// === impl Identity ===

impl Identity {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The answer has begun, with this id.
    pub(crate) fn began(&mut self, id: &str) {
        if self.id.is_empty() && id.len() <= MAX_ID {
            id.clone_into(&mut self.id);
        }
    }

    /// Adds the ids of an event of the answer.
    pub(crate) fn learn(&mut self, kind: Option<Kind>, data: &[u8]) {
        if kind != Some(Kind::OpenAiResponses) || memmem::find(data, b"response.output_item.added").is_none() {
            return;
        }
        let Ok(Value::Object(data)) = serde_json::from_slice(data) else { return };
        let item = data.get("item").and_then(|item| text(item.as_object()?, "id"));
        if let Some(item) = item.filter(|_| self.items.len() < MAX_ITEMS) {
            self.items.insert(hash(item));
        }
    }

    /// Whether an event names no other answer. Events without an id are accepted.
    pub(crate) fn fits(&self, kind: Option<Kind>, data: &[u8]) -> bool {
        let (Some(kind), Ok(Value::Object(data))) = (kind, serde_json::from_slice(data)) else { return true };
        let named = match kind {
            Kind::OpenAiChat => text(&data, "id"),
            Kind::Gemini => text(&data, "responseId"),
            Kind::OpenAiResponses => data.get("response").and_then(|response| text(response.as_object()?, "id")),
            Kind::Anthropic => data.get("message").and_then(|message| text(message.as_object()?, "id")),
            _ => None,
        };
        let is_known =
            |item: &str| self.items.is_empty() || self.items.len() >= MAX_ITEMS || self.items.contains(&hash(item));
        named.is_none_or(|id| self.id.is_empty() || id == self.id)
            && (kind != Kind::OpenAiResponses || text(&data, "item_id").is_none_or(is_known))
    }
}

/// Whether an answer of Responses reports that it is made in the background.
pub(crate) fn in_background(data: &[u8]) -> Option<bool> {
    let data: Value = serde_json::from_slice(data).ok()?;
    data.get("response")?.get("background")?.as_bool()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_answer_is_recognised_by_its_ids() {
        let mut chat = Identity::default();
        chat.began("chatcmpl-1");
        assert!(chat.fits(Some(Kind::OpenAiChat), br#"{"id":"chatcmpl-1","choices":[]}"#));
        assert!(!chat.fits(Some(Kind::OpenAiChat), br#"{"id":"chatcmpl-2","choices":[]}"#));
        assert!(chat.fits(Some(Kind::OpenAiChat), b"[DONE]"));
        assert!(chat.fits(None, br#"{"id":"x"}"#), "what an id means there is not known");

        let (mut responses, kind) = (Identity::default(), Some(Kind::OpenAiResponses));
        responses.began("resp_1");
        responses.learn(kind, br#"{"type":"response.output_item.added","item":{"id":"msg_1","type":"message"}}"#);
        assert!(responses.fits(kind, br#"{"type":"response.output_text.delta","item_id":"msg_1"}"#));
        assert!(!responses.fits(kind, br#"{"type":"response.output_text.delta","item_id":"msg_2"}"#));
        assert!(!responses.fits(kind, br#"{"type":"response.completed","response":{"id":"resp_2"}}"#));
    }

    #[test]
    fn responses_say_whether_they_are_made_in_the_background() {
        let data = br#"{"type":"response.created","response":{"id":"r","background":true}}"#;
        assert_eq!(in_background(data), Some(true));
        assert_eq!(in_background(br#"{"type":"response.created","response":{"id":"r"}}"#), None);
    }

    #[test]
    fn each_dialect_names_its_answer_in_a_place_of_its_own() {
        for (kind, same, other) in [
            (Kind::Gemini, r#"{"responseId":"a"}"#, r#"{"responseId":"b"}"#),
            (Kind::Anthropic, r#"{"message":{"id":"a"}}"#, r#"{"message":{"id":"b"}}"#),
            (Kind::OpenAiResponses, r#"{"response":{"id":"a"}}"#, r#"{"response":{"id":"b"}}"#),
            (Kind::OpenAiChat, r#"{"id":"a"}"#, r#"{"id":"b"}"#),
        ] {
            let mut identity = Identity::default();
            assert!(identity.fits(Some(kind), other.as_bytes()), "it has no id yet");
            identity.began("a");
            identity.began("b");
            assert_eq!(identity.id(), "a", "the first counts");
            assert!(
                identity.fits(Some(kind), same.as_bytes()) && !identity.fits(Some(kind), other.as_bytes()),
                "{kind:?}"
            );
        }
        let mut cohere = Identity::default();
        cohere.began("a");
        assert!(cohere.fits(Some(Kind::Cohere), br#"{"id":"b"}"#));
        let mut long = Identity::default();
        long.began(&"x".repeat(MAX_ID + 1));
        assert_eq!(long.id(), "");
        long.began(&"x".repeat(MAX_ID));
        assert_eq!(long.id().len(), MAX_ID);
    }
}
