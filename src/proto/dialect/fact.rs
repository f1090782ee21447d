//! The content of events, in one vocabulary for all dialects.

use std::borrow::Cow;
use std::fmt;

use super::end::End;
use super::fault::Fault;
use super::json;

/// One fact in an event of a stream.
///
/// An event may have several facts, and several events the same fact.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact<'a> {
    /// The answer has begun: the model, or a gateway before it, accepted the request.
    #[non_exhaustive]
    Started {
        /// The answer's id.
        id: Option<&'a str>,
        /// The answering model.
        model: Option<&'a str>,
    },
    /// A piece of the answer.
    #[non_exhaustive]
    Delta {
        /// Which of several answers; 0 in a dialect with only one.
        choice: u32,
        /// Its kind.
        channel: Channel,
        /// The piece, if it is text.
        text: Text<'a>,
    },
    /// One of several answers has ended. The stream goes on.
    #[non_exhaustive]
    ChoiceEnded {
        /// Which.
        choice: u32,
        /// How.
        end: End,
    },
    /// Its token usage so far, or in total.
    Usage(Usage),
    /// The complete answer has ended, and the model reported how. What follows does not belong to it.
    Ended(End),
    /// The stream is closed by the dialect's marker (`[DONE]`, `message_stop`), but the model did not report how its
    /// answer ended.
    Marker,
    /// The upstream reports an error.
    Failed(Fault),
    /// A keep-alive.
    KeepAlive,
    /// Anything else.
    Other,
    /// An event that violates the dialect's syntax.
    Unreadable,
}

/// The kind of a piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Channel {
    /// The answer's text.
    Text,
    /// The model's thoughts.
    Reasoning,
    /// The model's reason to refuse.
    Refusal,
    /// A tool call: its name, then its arguments.
    #[non_exhaustive]
    ToolCall {
        /// The index of the call.
        index: u32,
    },
    /// Content other than text: sound, an image, a signature, encrypted data, and text of an event above 64 KiB.
    Opaque,
}

/// The text of a [`Fact::Delta`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(Repr<'a>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Repr<'a> {
    Plain(&'a str),
    /// As written between the quotes of a JSON string.
    Escaped(&'a [u8]),
}

/// Token counts, if reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the request.
    pub input: Option<u64>,
    /// Tokens of the answer so far, reasoning included.
    pub output: Option<u64>,
}

// === impl Fact ===

impl<'a> Fact<'a> {
    /// The answer has begun.
    #[must_use]
    pub const fn started(id: Option<&'a str>, model: Option<&'a str>) -> Self {
        Self::Started { id, model }
    }

    /// A piece of a choice's text.
    #[must_use]
    pub const fn delta(choice: u32, channel: Channel, text: &'a str) -> Self {
        Self::Delta { choice, channel, text: Text(Repr::Plain(text)) }
    }

    /// A piece of a choice other than text.
    #[must_use]
    pub const fn opaque(choice: u32) -> Self {
        Self::delta(choice, Channel::Opaque, "")
    }

    /// A choice has ended.
    #[must_use]
    pub const fn choice_ended(choice: u32, end: End) -> Self {
        Self::ChoiceEnded { choice, end }
    }

    /// Whether it is content that a person could be shown: a delta.
    #[must_use]
    pub const fn is_content(&self) -> bool {
        matches!(self, Self::Delta { .. })
    }
}

// === impl Channel ===

impl Channel {
    /// The tool call with this index.
    #[must_use]
    pub const fn tool_call(index: u32) -> Self {
        Self::ToolCall { index }
    }
}

// === impl Text ===

impl<'a> Text<'a> {
    /// The content of a valid JSON string.
    pub(super) const fn escaped(raw: &'a [u8]) -> Self {
        Self(Repr::Escaped(raw))
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Repr::Plain(text) => text.is_empty(),
            Repr::Escaped(raw) => raw.is_empty(),
        }
    }

    /// The number of bytes as sent: with escapes, at least as many as the decoded text.
    #[cfg(feature = "llm")]
    pub(crate) const fn byte_len(&self) -> u64 {
        match self.0 {
            Repr::Plain(text) => text.len() as u64,
            Repr::Escaped(raw) => raw.len() as u64,
        }
    }

    /// Decodes the text. Decoding happens only here, so unused text costs nothing.
    #[must_use]
    pub fn decode(&self) -> Cow<'a, str> {
        match self.0 {
            Repr::Plain(text) => Cow::Borrowed(text),
            Repr::Escaped(raw) => json::unescape(raw),
        }
    }
}

/// Without the text, which is the model's.
impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Text(empty)" } else { "Text(..)" })
    }
}

// === impl Usage ===

impl Usage {
    /// Tokens of the request and of the answer.
    #[must_use]
    pub const fn new(input: Option<u64>, output: Option<u64>) -> Self {
        Self { input, output }
    }

    /// Adds the tokens of another call.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
        };
        Self::new(sum(self.input, other.input), sum(self.output, other.output))
    }

    /// Replaces the counts by later ones of the same call.
    pub(crate) fn updated(self, later: Self) -> Self {
        Self::new(later.input.or(self.input), later.output.or(self.output))
    }

    /// The same for an optional earlier count.
    pub(crate) fn note(known: &mut Option<Self>, later: Self) {
        *known = Some(known.unwrap_or_default().updated(later));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_add_up_and_the_later_number_counts() {
        let (one, other) = (Usage::new(Some(3), None), Usage::new(Some(4), Some(5)));
        assert_eq!(one.plus(other), Usage::new(Some(7), Some(5)));
        assert_eq!(one.plus(one), Usage::new(Some(6), None));
        assert_eq!(Usage::default().plus(other), other);
        assert_eq!(Usage::new(Some(u64::MAX), None).plus(one).input, Some(u64::MAX));
        assert_eq!(other.updated(one), Usage::new(Some(3), Some(5)));
        let mut known = None;
        Usage::note(&mut known, one);
        assert_eq!(known, Some(one));
        Usage::note(&mut known, Usage::new(None, Some(9)));
        assert_eq!(known, Some(Usage::new(Some(3), Some(9))));
    }

    #[test]
    fn a_text_is_shown_only_when_it_is_asked_for() {
        let Fact::Delta { text, .. } = Fact::delta(0, Channel::Text, "secret") else { panic!() };
        assert!(!text.is_empty());
        assert_eq!((text.decode().as_ref(), format!("{text:?}").as_str()), ("secret", "Text(..)"));
        let escaped = Text::escaped(br"a\n");
        assert!(!escaped.is_empty() && Text::escaped(b"").is_empty());
        assert_eq!(escaped.decode(), "a\n");
        let Fact::Delta { choice: 3, channel: Channel::Opaque, text } = Fact::opaque(3) else { panic!() };
        assert!(text.is_empty());
        assert_eq!((text.decode().as_ref(), format!("{text:?}").as_str()), ("", "Text(empty)"));
    }

    #[test]
    fn only_a_delta_is_content() {
        assert!(Fact::opaque(0).is_content());
        assert!(!Fact::Marker.is_content() && !Fact::choice_ended(0, End::Whole).is_content());
        assert_eq!(Channel::tool_call(2), Channel::ToolCall { index: 2 });
        let Fact::Started { id: Some("i"), model: None } = Fact::started(Some("i"), None) else { panic!() };
    }
}
