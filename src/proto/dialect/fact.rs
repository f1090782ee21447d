//! What events say, in one vocabulary for all dialects.

use std::borrow::Cow;
use std::fmt;

use super::end::End;
use super::fault::Fault;
use super::json;

/// One thing that an event of a stream says.
///
/// An event may say several, and several events the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact<'a> {
    /// The answer has begun: the model, or what stands before it, accepted the request.
    #[non_exhaustive]
    Started {
        /// The answer's id.
        id: Option<&'a str>,
        /// The model that answers.
        model: Option<&'a str>,
    },
    /// A piece of the answer.
    #[non_exhaustive]
    Delta {
        /// Of which of several answers; 0 where the dialect has one only.
        choice: u32,
        /// What it is.
        channel: Channel,
        /// The piece, where it is text.
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
    /// What it has cost so far, or in all.
    Usage(Usage),
    /// The whole answer has ended, and the model said how. What follows is not part of it.
    Ended(End),
    /// The stream is closed in the way of the dialect (`[DONE]`, `message_stop`), though the model did not say how its answer
    /// ended.
    Marker,
    /// The upstream tells of an error.
    Failed(Fault),
    /// Nothing, but that the upstream is alive.
    KeepAlive,
    /// Anything else.
    Other,
    /// An event that is not in the dialect's syntax.
    Unreadable,
}

/// What a piece of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Channel {
    /// The answer's text.
    Text,
    /// What the model thinks.
    Reasoning,
    /// Why the model refuses.
    Refusal,
    /// A call of a tool: its name, then its arguments.
    #[non_exhaustive]
    ToolCall {
        /// Which of several.
        index: u32,
    },
    /// What is no text: sound, an image, a signature, what is encrypted, and text of an event above 64 KiB.
    Opaque,
}

/// The text of a [`Fact::Delta`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(Repr<'a>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Repr<'a> {
    Plain(&'a str),
    /// As it stands between the quotes of a JSON string.
    Escaped(&'a [u8]),
}

/// Tokens, where they were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Of the request.
    pub input: Option<u64>,
    /// Of the answer so far, reasoning included.
    pub output: Option<u64>,
}

// === impl Fact ===

impl<'a> Fact<'a> {
    /// The answer has begun.
    #[must_use]
    pub const fn started(id: Option<&'a str>, model: Option<&'a str>) -> Self {
        Self::Started { id, model }
    }

    /// A piece of text of a choice.
    #[must_use]
    pub const fn delta(choice: u32, channel: Channel, text: &'a str) -> Self {
        Self::Delta { choice, channel, text: Text(Repr::Plain(text)) }
    }

    /// A piece of a choice that is no text.
    #[must_use]
    pub const fn opaque(choice: u32) -> Self {
        Self::delta(choice, Channel::Opaque, "")
    }

    /// A choice has ended.
    #[must_use]
    pub const fn choice_ended(choice: u32, end: End) -> Self {
        Self::ChoiceEnded { choice, end }
    }

    /// Whether it is something that a person could be shown: a delta.
    #[must_use]
    pub const fn is_content(&self) -> bool {
        matches!(self, Self::Delta { .. })
    }
}

// === impl Channel ===

impl Channel {
    /// The call of a tool with this number.
    #[must_use]
    pub const fn tool_call(index: u32) -> Self {
        Self::ToolCall { index }
    }
}

// === impl Text ===

impl<'a> Text<'a> {
    /// What stands between the quotes of a valid JSON string.
    pub(super) const fn escaped(raw: &'a [u8]) -> Self {
        Self(Repr::Escaped(raw))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Repr::Plain(text) => text.is_empty(),
            Repr::Escaped(raw) => raw.is_empty(),
        }
    }

    /// How many bytes it has as it was sent: with what is escaped, at least as many as it has as text.
    #[cfg(feature = "llm")]
    pub(crate) const fn byte_len(&self) -> u64 {
        match self.0 {
            Repr::Plain(text) => text.len() as u64,
            Repr::Escaped(raw) => raw.len() as u64,
        }
    }

    /// The text. It is unescaped here, so that it costs nothing where it is not asked for.
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

    /// These tokens and those of another call.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
        };
        Self::new(sum(self.input, other.input), sum(self.output, other.output))
    }

    /// What was told later of the same call holds.
    pub(crate) fn updated(self, later: Self) -> Self {
        Self::new(later.input.or(self.input), later.output.or(self.output))
    }

    /// The same, where nothing may have been told yet.
    pub(crate) fn note(told: &mut Option<Self>, later: Self) {
        *told = Some(told.unwrap_or_default().updated(later));
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
        let mut told = None;
        Usage::note(&mut told, one);
        assert_eq!(told, Some(one));
        Usage::note(&mut told, Usage::new(None, Some(9)));
        assert_eq!(told, Some(Usage::new(Some(3), Some(9))));
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
