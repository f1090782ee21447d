//! Recognises events that differ from an earlier one in their text only.
//!
//! Almost all events of a stream are alike: the same members in the same order, with another piece of text. One of them was
//! parsed; the next are compared with it, byte for byte outside of the values that may differ, and where they lie whole in a chunk,
//! they are not even cut into lines before. That costs a tenth of a parse, and allocates nothing: what does not match to the byte
//! is parsed. So that it reads what a parser reads, nothing is learned of an event in which the text stands twice, or a number that
//! counts, or whose keys are written with escapes: which of them a parser took cannot be seen.
//!
//! A value that may differ, and does not (an id, a time), is compared with what stands around it, at once. The first event in
//! which it differs is parsed.

use memchr::memchr2;

use super::event::{Event, MAX_WHOLE};
use super::fact::{Channel, Fact, Text, Usage};
use super::json::utf16_unit;
use super::kind::Kind;
use crate::proto::sse::LineEnding;

/// What the value of a key is to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueRole {
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
    /// Data of several lines lies otherwise in an event stream than in an event.
    is_one_line: bool,
    form: Form,
    /// What stands before, between and behind the values that differ.
    text: Vec<u8>,
    holes: Vec<Hole>,
}

/// Where an event has values that may differ.
#[derive(Debug)]
struct Form {
    /// The event without them.
    text: Vec<u8>,
    values: Vec<Value>,
}

/// A value that may differ.
#[derive(Debug)]
struct Value {
    hole: Hole,
    seen: Vec<u8>,
    differs: bool,
}

/// The place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    /// Where in the text what stands before it ends.
    at: usize,
    role: ValueRole,
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
/// The most bytes of a string that are looked at one by one.
const SHORT: usize = 32;

// === impl Templates ===

impl Templates {
    /// What an event says, if it is like one that was learned.
    #[inline]
    pub(super) fn find<'a>(&self, event: &Event<'a>) -> Option<Matched<'a>> {
        self.known.iter().find_map(|template| template.matches(event))
    }

    /// The event that these bytes of an event stream begin with, if all of it is there and it is like one that was learned, what
    /// it says, and how many bytes it takes. Between events only; `ending`: how the lines of the stream end.
    #[inline]
    pub(super) fn find_in<'a: 'b, 'b>(
        &'b self,
        bytes: &'a [u8],
        ending: LineEnding,
    ) -> Option<(Event<'b>, Matched<'a>, usize)> {
        self.known.iter().find_map(|template| template.begins(bytes, ending))
    }

    /// Learns an event that said nothing but this piece of text, and perhaps what it has cost.
    #[cold]
    pub(super) fn learn(&mut self, kind: Kind, event: &Event<'_>, said: &Delta, usage: Option<Usage>) {
        let Some(mut form) = Form::of(kind, event, said) else { return };
        let like = self.known.iter().position(|known| known.is_like(event, said, usage, &form));
        if let Some(known) = like.and_then(|at| self.known.get(at)) {
            form.compare(&known.form);
        }
        let template = Template::new(event, said, usage.is_some(), form);
        // What it would say of the very event is what was said: then it has found the right values.
        let same = template
            .matches(event)
            .is_some_and(|found| found.usage == usage && Text::escaped(found.text).decode() == said.text);
        if !same {
            return;
        }
        match self.known.get_mut(like.unwrap_or(self.oldest)) {
            Some(place) => *place = template,
            None => self.known.push(template),
        }
        if like.is_none() {
            self.oldest = (self.oldest + 1) % MAX_TEMPLATES;
        }
    }
}

// === impl Form ===

impl Form {
    fn of(kind: Kind, event: &Event<'_>, said: &Delta) -> Option<Self> {
        if event.shortened || event.misplaced || event.data.len() > MAX_EVENT {
            return None;
        }
        let mut form = Self { text: Vec::with_capacity(event.data.len()), values: Vec::new() };
        let mut rest = event.data;
        let mut role = ValueRole::Literal;
        let (mut counters, mut texts): (Vec<&[u8]>, u32) = (Vec::new(), 0);
        while let Some((&first, behind)) = rest.split_first() {
            let length = match first {
                b'"' => {
                    let inside = string(behind)?;
                    let after = behind.get(inside + 1..)?;
                    if after.trim_ascii_start().first() == Some(&b':') {
                        let key = behind.get(..inside)?;
                        role = kind.role(key);
                        let counts = matches!(role, ValueRole::Input | ValueRole::Output | ValueRole::Sequence);
                        if key.contains(&b'\\') || counts && counters.contains(&key) {
                            return None;
                        }
                        if counts {
                            counters.push(key);
                        }
                        inside + 2
                    } else {
                        let value = behind.get(..inside)?;
                        texts += u32::from(Text::escaped(value).decode() == said.text);
                        form.text.push(b'"');
                        form.value(role, value, true)?;
                        form.text.push(b'"');
                        rest = after;
                        continue;
                    }
                }
                b'0'..=b'9' => {
                    let length = digits(rest)?;
                    form.value(role, rest.get(..length)?, false)?;
                    rest = rest.get(length..)?;
                    continue;
                }
                // What is inside of brackets has keys of its own; their elements have none.
                b'{' | b'[' => {
                    role = ValueRole::Literal;
                    1
                }
                _ => 1,
            };
            let (taken, behind) = rest.split_at_checked(length)?;
            form.text.extend_from_slice(taken);
            rest = behind;
        }
        let places = form.values.iter().filter(|value| value.hole.role == ValueRole::Text).count();
        (texts == 1 && places == 1).then_some(form)
    }

    /// Leaves a value out, or keeps it where it must be the same. `None`: there are too many of them.
    fn value(&mut self, role: ValueRole, value: &[u8], is_string: bool) -> Option<()> {
        if role == ValueRole::Literal {
            self.text.extend_from_slice(value);
        } else if self.values.len() < MAX_HOLES {
            let hole = Hole { at: self.text.len(), role, is_string };
            self.values.push(Value { hole, seen: value.to_vec(), differs: role != ValueRole::Any });
        } else {
            return None;
        }
        Some(())
    }

    fn is_like(&self, other: &Self) -> bool {
        let holes = |form: &Self| form.values.iter().map(|value| value.hole).collect::<Vec<_>>();
        self.text == other.text && holes(self) == holes(other)
    }

    /// Notes which values differ from those of an earlier event.
    fn compare(&mut self, earlier: &Self) {
        for (value, earlier) in self.values.iter_mut().zip(&earlier.values) {
            value.differs |= earlier.differs || value.seen != earlier.seen;
        }
    }
}

// === impl Template ===

impl Template {
    fn new(event: &Event<'_>, said: &Delta, has_usage: bool, form: Form) -> Self {
        let (mut text, mut holes, mut from) = (Vec::with_capacity(event.data.len()), Vec::new(), 0);
        for Value { hole, seen, differs } in &form.values {
            text.extend_from_slice(form.text.get(from..hole.at).unwrap_or_default());
            from = hole.at;
            if *differs {
                holes.push(Hole { at: text.len(), ..*hole });
            } else {
                text.extend_from_slice(seen);
            }
        }
        text.extend_from_slice(form.text.get(from..).unwrap_or_default());
        let name = event.name.to_owned();
        let Delta { choice, channel, .. } = *said;
        let is_one_line = memchr2(b'\n', b'\r', event.data).is_none();
        Self { name, choice, channel, has_usage, is_one_line, form, text, holes }
    }

    /// Whether this is one of an event that has the same form, and says as much.
    fn is_like(&self, event: &Event<'_>, said: &Delta, usage: Option<Usage>, form: &Form) -> bool {
        let says = (self.choice, self.channel, self.has_usage) == (said.choice, said.channel, usage.is_some());
        says && self.name == event.name && self.form.is_like(form)
    }

    #[inline]
    fn matches<'a>(&self, event: &Event<'a>) -> Option<Matched<'a>> {
        if event.misplaced || event.shortened || event.name != self.name {
            return None;
        }
        self.take(event.data).filter(|(_, behind)| behind.is_empty()).map(|(matched, _)| matched)
    }

    #[inline]
    fn begins<'a: 'b, 'b>(&'b self, bytes: &'a [u8], ending: LineEnding) -> Option<(Event<'b>, Matched<'a>, usize)> {
        if !self.is_one_line {
            return None;
        }
        let mut from_data = bytes;
        if !self.name.is_empty() {
            let name = bytes.strip_prefix(b"event: ")?.strip_prefix(self.name.as_bytes())?;
            from_data = name.strip_prefix(ending.as_str().as_bytes())?;
        }
        from_data = from_data.strip_prefix(b"data: ")?;
        let (matched, behind) = self.take(from_data)?;
        let blank = match ending {
            LineEnding::Lf => behind.strip_prefix(b"\n\n"),
            LineEnding::CrLf => behind.strip_prefix(b"\r\n\r\n"),
            LineEnding::Cr => None,
        };
        let length = bytes.len() - blank?.len();
        let data = from_data.get(..from_data.len() - behind.len()).filter(|data| data.len() <= MAX_WHOLE)?;
        Some((Event::new(&self.name, data), matched, length))
    }

    /// Takes data like this off `data`. Returns what it says, and what is behind it.
    #[inline]
    fn take<'a>(&self, data: &'a [u8]) -> Option<(Matched<'a>, &'a [u8])> {
        let mut rest = data;
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
                ValueRole::Literal | ValueRole::Any => {}
                // Without a text it is no delta.
                ValueRole::Text if value.is_empty() => return None,
                ValueRole::Text => matched.text = value,
                ValueRole::Input => usage.input = Some(number(value)?),
                ValueRole::Output => usage.output = Some(usage.output.unwrap_or(0).saturating_add(number(value)?)),
                ValueRole::Sequence => matched.sequence = Some(number(value)?),
            }
        }
        matched.usage = self.has_usage.then_some(usage);
        rest.strip_prefix(self.text.get(from..)?).map(|behind| (matched, behind))
    }
}

/// How long a string is, of which the opening quote was read: `None` if it has no end, is not valid, or has in it what is
/// better left to the parser.
#[inline]
fn string(text: &[u8]) -> Option<usize> {
    // A piece of text is a word or two.
    for (at, byte) in text.iter().take(SHORT).enumerate() {
        match byte {
            b'"' => return Some(at),
            b'\\' | ..=0x1F | 0x80.. => break,
            _ => {}
        }
    }
    long_string(text)
}

fn long_string(text: &[u8]) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(kind: Kind, data: &str, text: &str) -> Templates {
        let mut templates = Templates::default();
        let said = Delta { choice: 0, channel: Channel::Text, text: text.to_owned() };
        templates.learn(kind, &Event::new("", data.as_bytes()), &said, None);
        templates
    }

    /// As Google's servers write the elements of an array.
    fn element(text: &str) -> String {
        format!(
            "{{\n  \"candidates\": [\n    {{\n      \"content\": {{\n        \"parts\": [\n          {{\n            \"text\": \"{text}\"\n          }}\n\
             \x20       ],\n        \"role\": \"model\"\n      }},\n      \"index\": 0\n    }}\n  ],\n  \"modelVersion\": \"gemini-3\"\n}}"
        )
    }

    #[test]
    fn an_event_of_several_lines_is_recognised_and_not_taken_for_lines_of_a_stream() {
        let templates = learned(Kind::Gemini, &element("Hel"), "Hel");
        let next = element("lo");
        let found = templates.find(&Event::new("", next.as_bytes())).unwrap();
        assert_eq!(found.text, b"lo");
        let stream = format!("data: {next}\n\n");
        assert!(templates.find_in(stream.as_bytes(), LineEnding::Lf).is_none());
        let templates = learned(Kind::Gemini, &element("Hel").replace('\n', ""), "Hel");
        let stream = stream.replacen('\n', "", next.matches('\n').count());
        assert!(templates.find_in(stream.as_bytes(), LineEnding::Lf).is_some());
    }

    #[test]
    fn of_an_event_with_many_values_nothing_is_learned() {
        let event = |text: &str, ids: usize| {
            let ids: String = (0..ids).map(|id| format!(",\"id\":\"{id}\"")).collect();
            format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{ids}}}")
        };
        for (ids, is_learned) in [(MAX_HOLES - 1, true), (MAX_HOLES, false)] {
            let templates = learned(Kind::OpenAiChat, &event("Hel", ids), "Hel");
            let next = event("lo", ids);
            assert_eq!(templates.find(&Event::new("", next.as_bytes())).is_some(), is_learned, "{ids}");
        }
    }

    fn chunk(id: &str, text: &str) -> String {
        format!("{{\"id\":\"{id}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}")
    }

    fn finds(templates: &Templates, data: &str) -> Option<String> {
        let found = templates.find(&Event::new("", data.as_bytes()))?;
        Some(String::from_utf8(found.text.to_vec()).unwrap())
    }

    #[test]
    fn a_value_that_may_differ_is_compared_until_it_has_differed() {
        let mut templates = learned(Kind::OpenAiChat, &chunk("a", "Hel"), "Hel");
        assert_eq!(finds(&templates, &chunk("a", "lo")).as_deref(), Some("lo"));
        assert_eq!(finds(&templates, &chunk("b", "lo")), None, "another id");
        let mut learn = |id: &str| {
            let said = Delta { choice: 0, channel: Channel::Text, text: "Hel".to_owned() };
            templates.learn(Kind::OpenAiChat, &Event::new("", chunk(id, "Hel").as_bytes()), &said, None);
            finds(&templates, &chunk("z", "lo"))
        };
        assert_eq!(learn("a"), None, "the same id again");
        assert_eq!(learn("b").as_deref(), Some("lo"));
        assert_eq!(learn("b").as_deref(), Some("lo"), "it has differed before");
    }

    #[test]
    fn what_is_not_one_text_in_one_place_is_not_learned() {
        let twice = "{\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"x\":\"Hel\"}";
        assert!(learned(Kind::OpenAiChat, twice, "Hel").known.is_empty());
        let two = "{\"choices\":[{\"delta\":{\"content\":\"Hel\",\"reasoning\":\"x\"}}]}";
        assert!(learned(Kind::OpenAiChat, two, "Hel").known.is_empty());
        let elsewhere = "{\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"y\":\"Hel\"}";
        assert!(learned(Kind::OpenAiChat, elsewhere, "Hel").known.is_empty());
        let escaped = "{\"a\\u0062\":\"x\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}";
        assert!(learned(Kind::OpenAiChat, escaped, "Hel").known.is_empty(), "a key that is written in another way");
        let counted = "{\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"prompt_tokens\":1,\"prompt_tokens\":2}";
        assert!(learned(Kind::OpenAiChat, counted, "Hel").known.is_empty(), "two numbers for one");
    }

    #[test]
    fn an_event_is_learned_up_to_a_length() {
        let padded = |text: &str, length: usize| {
            let rest = chunk("a", text).len() + "{\"pad\":\"\",".len() - 1;
            chunk("a", text).replacen('{', &format!("{{\"pad\":\"{}\",", "x".repeat(length - rest)), 1)
        };
        for (length, is_learned) in [(MAX_EVENT, true), (MAX_EVENT + 1, false)] {
            let event = padded("Hel", length);
            assert_eq!(event.len(), length);
            let templates = learned(Kind::OpenAiChat, &event, "Hel");
            assert_eq!(finds(&templates, &padded("low", length)).is_some(), is_learned, "{length}");
        }
    }

    #[test]
    fn at_most_four_forms_are_kept_and_the_oldest_goes() {
        let mut templates = Templates::default();
        let form = |number: u32, text: &str| {
            format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"n\":{number}}}")
        };
        let mut learn = |number| {
            let said = Delta { choice: 0, channel: Channel::Text, text: "Hel".to_owned() };
            templates.learn(Kind::OpenAiChat, &Event::new("", form(number, "Hel").as_bytes()), &said, None);
            (1..7).filter(|number| finds(&templates, &form(*number, "lo")).is_some()).collect::<Vec<_>>()
        };
        for number in 1..4 {
            learn(number);
        }
        assert_eq!(learn(4), [1, 2, 3, 4]);
        assert_eq!(learn(5), [2, 3, 4, 5]);
        assert_eq!(learn(3), [2, 3, 4, 5], "it is known");
        assert_eq!(learn(6), [3, 4, 5, 6]);
    }

    #[test]
    fn a_string_ends_at_its_quote_if_it_is_valid() {
        for (text, length) in [
            ("abc\"d", Some(3)),
            ("\"", Some(0)),
            ("a b\"", Some(3)),
            ("a\\\"b\"", Some(4)),
            ("\\u0041\"", Some(6)),
            ("\\ud83d\"", None),
            ("\\x\"", None),
            ("a\u{1f}b\"", None),
            ("abc", None),
            ("é\"", Some(2)),
        ] {
            assert_eq!((string(text.as_bytes()), long_string(text.as_bytes())), (length, length), "{text:?}");
        }
        assert_eq!(string(b"\xFF\""), None);
        let long = format!("{}\"", "x".repeat(2 * SHORT));
        assert_eq!(string(long.as_bytes()), Some(2 * SHORT));
    }

    #[test]
    fn a_number_begins_with_no_zero_but_its_own() {
        for (text, count) in [
            ("0", Some(1)),
            ("0,", Some(1)),
            ("10", Some(2)),
            ("7x", Some(1)),
            ("00", None),
            ("01", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(digits(text.as_bytes()), count, "{text}");
        }
        assert_eq!((number(b"12"), number(b"99999999999999999999999")), (Some(12), None));
    }

    #[test]
    fn an_event_of_another_name_or_a_cut_one_is_not_taken_for_it() {
        let said = Delta { choice: 2, channel: Channel::Reasoning, text: "Hel".to_owned() };
        let mut templates = Templates::default();
        let data = chunk("a", "Hel");
        templates.learn(Kind::OpenAiChat, &Event::new("named", data.as_bytes()), &said, None);
        let next = chunk("a", "lo");
        let found = templates.find(&Event::new("named", next.as_bytes())).unwrap();
        let mut facts = Vec::new();
        found.facts(|fact| facts.push(fact));
        let [Fact::Delta { choice: 2, channel: Channel::Reasoning, text }] = &facts[..] else { panic!("{facts:?}") };
        assert_eq!(text.decode(), "lo");
        assert!(templates.find(&Event::new("", next.as_bytes())).is_none());
        assert!(templates.find(&Event { shortened: true, ..Event::new("named", next.as_bytes()) }).is_none());
        assert!(templates.find(&Event { misplaced: true, ..Event::new("named", next.as_bytes()) }).is_none());
        assert!(templates.find(&Event::new("named", format!("{next} ").as_bytes())).is_none(), "more behind it");
        let stream = format!("event: named\ndata: {next}\n\nrest");
        let (event, found, length) = templates.find_in(stream.as_bytes(), LineEnding::Lf).unwrap();
        assert_eq!((event.name, found.text, length), ("named", &b"lo"[..], stream.len() - 4));
        assert!(templates.find_in(stream.as_bytes(), LineEnding::CrLf).is_none());
        let cut = format!("event: named\ndata: {next}\n");
        assert!(templates.find_in(cut.as_bytes(), LineEnding::Lf).is_none());
        let empty = chunk("a", "");
        assert!(templates.find(&Event::new("named", empty.as_bytes())).is_none(), "without a text it is no delta");
    }

    #[test]
    fn what_an_event_cost_is_in_it() {
        let event = |text: &str, input: u32, output: u32| {
            format!(
                "{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}"
            )
        };
        let said = Delta { choice: 0, channel: Channel::Text, text: "Hel".to_owned() };
        let mut templates = Templates::default();
        let (data, usage) = (event("Hel", 3, 4), Usage::new(Some(3), Some(4)));
        templates.learn(Kind::OpenAiChat, &Event::new("", data.as_bytes()), &said, Some(Usage::new(Some(3), Some(5))));
        assert!(templates.known.is_empty(), "it would say another number");
        templates.learn(Kind::OpenAiChat, &Event::new("", data.as_bytes()), &said, Some(usage));
        let next = event("lo", 7, 12);
        let found = templates.find(&Event::new("", next.as_bytes())).unwrap();
        assert_eq!(found.usage, Some(Usage::new(Some(7), Some(12))));
        let mut facts = Vec::new();
        found.facts(|fact| facts.push(fact));
        assert_eq!(facts.last(), Some(&Fact::Usage(Usage::new(Some(7), Some(12)))));
    }
}
