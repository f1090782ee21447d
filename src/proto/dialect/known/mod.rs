//! The dialects that this crate knows: one file each, from events to facts.

use super::end::End;
use super::event::StreamEvent;
use super::fact::{Channel, Fact};
use super::json;
use super::kind::Kind;
use super::members::{index, list, number, object, some_text, text};
use super::reader::Dialect;
use super::template::ValueRole;

mod anthropic;
pub(super) mod chat;
mod cohere;
mod gemini;
mod ollama;
mod responses;

/// The receiver of facts.
type Facts<'f> = dyn FnMut(Fact<'_>) + 'f;

/// The answers seen in one stream, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Choices {
    seen: u128,
    ended: u128,
    /// An answer whose number is too large to track.
    untold: bool,
    worst: Option<End>,
}

// === impl Kind ===

impl Kind {
    /// Returns a reader of this dialect's events and answers.
    #[must_use]
    pub fn dialect(self) -> Box<dyn Dialect> {
        match self {
            Self::OpenAiChat => Box::<chat::Chat>::default(),
            Self::OpenAiResponses => Box::<responses::Responses>::default(),
            Self::Anthropic => Box::<anthropic::Anthropic>::default(),
            Self::Gemini => Box::<gemini::Gemini>::default(),
            Self::Cohere => Box::<cohere::Cohere>::default(),
            Self::Ollama => Box::<ollama::Ollama>::default(),
        }
    }

    /// Returns the role of a key's value in this dialect's events, by which two events can be compared.
    pub(super) fn role(self, key: &[u8]) -> ValueRole {
        match (self, key) {
            (Self::OpenAiChat, b"content" | b"reasoning_content" | b"reasoning" | b"text" | b"arguments")
            | (Self::OpenAiResponses, b"delta")
            | (Self::Anthropic, b"text" | b"thinking" | b"partial_json")
            | (Self::Gemini, b"text")
            | (Self::Cohere, b"text" | b"thinking" | b"arguments")
            | (Self::Ollama, b"content" | b"thinking" | b"response") => ValueRole::Text,
            (Self::OpenAiChat, b"id" | b"model" | b"created" | b"obfuscation" | b"total_tokens" | b"cached_tokens")
            | (Self::OpenAiChat, b"reasoning_tokens" | b"system_fingerprint" | b"p")
            | (Self::OpenAiResponses, b"item_id" | b"obfuscation")
            | (Self::Gemini, b"responseId" | b"modelVersion" | b"totalTokenCount" | b"tokenCount")
            | (Self::Gemini, b"cachedContentTokenCount")
            | (Self::Ollama, b"model" | b"created_at") => ValueRole::Any,
            (Self::OpenAiChat, b"prompt_tokens") | (Self::Gemini, b"promptTokenCount") => ValueRole::Input,
            (Self::OpenAiChat, b"completion_tokens")
            | (Self::Gemini, b"candidatesTokenCount" | b"thoughtsTokenCount") => ValueRole::Output,
            (Self::OpenAiResponses, b"sequence_number") => ValueRole::Sequence,
            _ => ValueRole::Literal,
        }
    }
}

// === impl Choices ===

impl Choices {
    fn see(&mut self, choice: u32) {
        match 1_u128.checked_shl(choice) {
            Some(bit) => self.seen |= bit,
            None => self.untold = true,
        }
    }

    fn end(&mut self, choice: u32, end: End) {
        self.see(choice);
        self.ended |= 1_u128.checked_shl(choice).unwrap_or(0);
        self.worst = self.worst.max(Some(end));
    }

    /// How all of them ended, if they have.
    fn all_ended(&self) -> Option<End> {
        let end = self.worst.filter(|_| self.seen == self.ended)?;
        Some(if self.untold { End::Unknown } else { end })
    }

    /// Whether one has ended, so the others must too.
    fn any_ended(&self) -> bool {
        self.ended != 0
    }
}

/// A piece of an event whose texts may have been cut: then only its presence is known.
fn delta<'a>(event: &StreamEvent<'_>, choice: u32, channel: Channel, text: &'a str) -> Fact<'a> {
    if event.shortened { Fact::opaque(choice) } else { Fact::delta(choice, channel, text) }
}
