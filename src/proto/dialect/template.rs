//! Recognises events that differ from an earlier one in their text only.
//!
//! Almost all events of a stream are alike: the same members in the same order, with another piece of text. One of them was
//! parsed; the next are compared with it, byte for byte outside of the values that may differ. That costs a tenth of a parse,
//! allocates nothing, and cannot misread: what does not match to the byte is parsed.

use memchr::memchr2;

use super::event::Event;
use super::fact::{Channel, Fact, Text, Usage};
use super::json::utf16_unit;
use super::kind::Kind;

/// What the value of a key is to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It decides what the event says, so it must be the same.
    Literal,
    /// It may be anything.
    Any,
    /// The text of the delta.
    Text,
    /// Tokens of the request.
    Input,
    /// Tokens of the answer: if there are several, their sum.
    Output,
    /// The number of the event in its stream.
    Sequence,
}

/// Some events that were parsed. More than one, since several answers, or text and thoughts, may take turns.
#[derive(Debug, Default)]
pub(super) struct Templates {
    known: Vec<Template>,
    /// Which one is replaced next.
    oldest: usize,
}

/// The only delta of an event that was parsed.
#[derive(Debug)]
pub(super) struct Delta {
    pub(super) choice: u32,
    pub(super) channel: Channel,
    pub(super) text: String,
}

/// One event that was parsed.
#[derive(Debug)]
struct Template {
    name: String,
    choice: u32,
    channel: Channel,
    has_usage: bool,
    /// What stands before, between and behind the values that may differ.
    text: Vec<u8>,
    holes: Vec<Hole>,
}

/// A value that may differ, and what stands before it.
#[derive(Debug)]
struct Hole {
    /// Where in the template's text what stands before it ends.
    at: usize,
    role: Role,
    is_string: bool,
}

/// What an event that matched says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Matched<'a> {
    text: &'a [u8],
    choice: u32,
    channel: Option<Channel>,
    usage: Option<Usage>,
    pub(super) sequence: Option<u64>,
}

const MAX_TEMPLATES: usize = 4;
/// Beyond that, comparing is no cheaper than parsing is rare.
const MAX_HOLES: usize = 24;
const MAX_EVENT: usize = 4 * 1024;

// === impl Templates ===

impl Templates {
    /// What an event says, if it is like one that was learned.
    #[inline]
    pub(super) fn find<'a>(&self, event: &Event<'a>) -> Option<Matched<'a>> {
        self.known.iter().find_map(|template| template.matches(event))
    }

    /// Learns an event that said nothing but this piece of text, and perhaps what it has cost.
    #[cold]
    pub(super) fn learn(&mut self, kind: Kind, event: &Event<'_>, said: &Delta, usage: Option<Usage>) {
        let Some(template) = Template::of(kind, event, said, usage.is_some()) else { return };
        // What it would say of the very event is what was said: then it has found the right values.
        let same = template
            .matches(event)
            .is_some_and(|found| found.usage == usage && Text::escaped(found.text).decode() == said.text);
        if !same {
            return;
        }
        match self.known.get_mut(self.oldest) {
            Some(place) => *place = template,
            None => self.known.push(template),
        }
        self.oldest = (self.oldest + 1) % MAX_TEMPLATES;
    }
}

// === impl Template ===

impl Template {
    fn of(kind: Kind, event: &Event<'_>, said: &Delta, has_usage: bool) -> Option<Self> {
        if event.shortened || event.misplaced || event.data.len() > MAX_EVENT {
            return None;
        }
        let mut text = Vec::with_capacity(event.data.len());
        let mut holes = Vec::new();
        let mut rest = event.data;
        let mut role = Role::Literal;
        while let Some((&first, behind)) = rest.split_first() {
            let length = match first {
                b'"' => {
                    let inside = string(behind)?;
                    let after = behind.get(inside + 1..)?;
                    if after.trim_ascii_start().first() == Some(&b':') {
                        role = kind.role(behind.get(..inside)?);
                        inside + 2
                    } else {
                        text.push(b'"');
                        hole(&mut text, &mut holes, role, behind.get(..inside)?, true);
                        text.push(b'"');
                        rest = after;
                        continue;
                    }
                }
                b'0'..=b'9' => {
                    let length = digits(rest)?;
                    hole(&mut text, &mut holes, role, rest.get(..length)?, false);
                    rest = rest.get(length..)?;
                    continue;
                }
                // What is inside of brackets has keys of its own; their elements have none.
                b'{' | b'[' => {
                    role = Role::Literal;
                    1
                }
                _ => 1,
            };
            let (taken, behind) = rest.split_at_checked(length)?;
            text.extend_from_slice(taken);
            rest = behind;
        }
        let one_text = holes.iter().filter(|hole| hole.role == Role::Text).count() == 1;
        let fits = one_text && holes.len() <= MAX_HOLES;
        let Delta { choice, channel, .. } = *said;
        fits.then(|| Self { name: event.name.to_owned(), choice, channel, has_usage, text, holes })
    }

    #[inline]
    fn matches<'a>(&self, event: &Event<'a>) -> Option<Matched<'a>> {
        if event.misplaced || event.shortened || event.name != self.name {
            return None;
        }
        let mut rest = event.data;
        let mut from = 0;
        let mut matched = Matched { choice: self.choice, channel: Some(self.channel), ..Matched::default() };
        let mut usage = Usage::default();
        for hole in &self.holes {
            rest = rest.strip_prefix(self.text.get(from..hole.at)?)?;
            from = hole.at;
            let length = if hole.is_string { string(rest)? } else { digits(rest)? };
            let (value, behind) = rest.split_at_checked(length)?;
            rest = behind;
            match hole.role {
                Role::Literal | Role::Any => {}
                // Without a text it is no delta.
                Role::Text if value.is_empty() => return None,
                Role::Text => matched.text = value,
                Role::Input => usage.input = Some(number(value)?),
                Role::Output => usage.output = Some(usage.output.unwrap_or(0).saturating_add(number(value)?)),
                Role::Sequence => matched.sequence = Some(number(value)?),
            }
        }
        matched.usage = self.has_usage.then_some(usage);
        (self.text.get(from..)? == rest).then_some(matched)
    }
}

/// Leaves a value out, or keeps it where it must be the same.
fn hole(text: &mut Vec<u8>, holes: &mut Vec<Hole>, role: Role, value: &[u8], is_string: bool) {
    if role == Role::Literal {
        text.extend_from_slice(value);
    } else {
        holes.push(Hole { at: text.len(), role, is_string });
    }
}

/// How long a string is, of which the opening quote was read: `None` if it has no end, is not valid, or has in it what is
/// better left to the parser.
#[inline]
fn string(text: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        end += memchr2(b'"', b'\\', text.get(end..)?)?;
        if text.get(end) == Some(&b'"') {
            break;
        }
        end += match text.get(end + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' if !matches!(utf16_unit(text.get(end..)?)?, 0xD800..=0xDFFF) => 6,
            _ => return None,
        };
    }
    let inside = text.get(..end)?;
    let valid = !inside.iter().any(|byte| *byte < b' ') && std::str::from_utf8(inside).is_ok();
    valid.then_some(end)
}

/// How many digits a number begins with, as JSON writes one.
#[inline]
fn digits(text: &[u8]) -> Option<usize> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count == 1 || count > 1 && text.first() != Some(&b'0')).then_some(count)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

// === impl Matched ===

impl<'a> Matched<'a> {
    pub(super) fn facts(&self, mut facts: impl FnMut(Fact<'a>)) {
        if let Some(channel) = self.channel {
            facts(Fact::Delta { choice: self.choice, channel, text: Text::escaped(self.text) });
        }
        if let Some(usage) = self.usage {
            facts(Fact::Usage(usage));
        }
    }
}
