//! Recognises events that differ from an earlier one only in their text.
//!
//! Almost all events of a stream are alike: the same members in the same order, with another piece of text. The first is
//! parsed; the next are compared with it, byte for byte outside the variable values. If they lie within one chunk they
//! are not even split into lines. That costs a tenth of parsing, and allocates nothing; an event that does not match
//! exactly is parsed. To read what a parser reads, no event is learned in which the text, or a number that counts, occurs
//! twice, or whose keys have escapes: which of them a parser used is unknown.
//!
//! A variable value that does not vary (an id, a time) is compared together with the text around it. The first event in
//! which it differs is parsed.

mod form;
mod parts;
mod scan;
#[cfg(test)]
mod tests;

use memchr::memchr2;

use self::form::{Form, Hole, VariableValue};
pub(super) use self::parts::{Delta, ValueRole};
use self::scan::{digits, number, string};
use super::event::StreamEvent;
use super::fact::{Channel, Fact, Text, Usage};
use super::framer::MAX_WHOLE;
use super::kind::Kind;
use crate::proto::sse::LineEnding;

/// Some parsed events. Several, since several answers, or text and thoughts, may alternate.
#[derive(Debug, Default)]
pub(super) struct Templates {
    known: Vec<Template>,
    /// The one that is replaced next.
    oldest: usize,
}

/// One parsed event.
#[derive(Debug)]
struct Template {
    name: String,
    choice: u32,
    channel: Channel,
    has_usage: bool,
    /// Data of several lines has another form in an event stream.
    is_one_line: bool,
    form: Form,
    /// The text before, between and after the variable values.
    text: Vec<u8>,
    holes: Vec<Hole>,
}

/// The content of a matched event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Matched<'a> {
    text: &'a [u8],
    choice: u32,
    channel: Option<Channel>,
    usage: Option<Usage>,
    pub(super) sequence: Option<u64>,
}

const MAX_TEMPLATES: usize = 4;

// === impl Templates ===

impl Templates {
    /// Returns the content of an event, if it matches a learned one.
    #[inline]
    pub(super) fn find<'a>(&self, event: &StreamEvent<'a>) -> Option<Matched<'a>> {
        self.known.iter().find_map(|template| template.matches(event))
    }

    /// Matches the event at the start of these bytes, if it is complete and like a learned one; returns its content and
    /// its length. Only between events; `ending`: the line ending of the stream.
    #[inline]
    pub(super) fn find_in<'a: 'b, 'b>(
        &'b self,
        bytes: &'a [u8],
        ending: LineEnding,
    ) -> Option<(StreamEvent<'b>, Matched<'a>, usize)> {
        self.known.iter().find_map(|template| template.begins(bytes, ending))
    }

    /// Learns an event that had only this piece of text, and perhaps token counts.
    #[cold]
    pub(super) fn learn(&mut self, kind: Kind, event: &StreamEvent<'_>, said: &Delta, usage: Option<Usage>) {
        let Some(mut form) = Form::of(kind, event, said) else { return };
        let like = self.known.iter().position(|known| known.is_like(event, said, usage, &form));
        if let Some(known) = like.and_then(|at| self.known.get(at)) {
            form.compare(&known.form);
        }
        let template = Template::new(event, said, usage.is_some(), form);
        // The template must return the same content for its own event: then it has the right values.
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

// === impl Template ===

impl Template {
    fn new(event: &StreamEvent<'_>, said: &Delta, has_usage: bool, form: Form) -> Self {
        let (mut text, mut holes, mut from) = (Vec::with_capacity(event.data.len()), Vec::new(), 0);
        for VariableValue { hole, seen, differs } in &form.values {
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

    /// Whether this template has the same form and content as the event.
    fn is_like(&self, event: &StreamEvent<'_>, said: &Delta, usage: Option<Usage>, form: &Form) -> bool {
        let says = (self.choice, self.channel, self.has_usage) == (said.choice, said.channel, usage.is_some());
        says && self.name == event.name && self.form.is_like(form)
    }

    #[inline]
    fn matches<'a>(&self, event: &StreamEvent<'a>) -> Option<Matched<'a>> {
        if event.misplaced || event.shortened || event.name != self.name {
            return None;
        }
        self.take(event.data).filter(|(_, behind)| behind.is_empty()).map(|(matched, _)| matched)
    }

    #[inline]
    fn begins<'a: 'b, 'b>(
        &'b self,
        bytes: &'a [u8],
        ending: LineEnding,
    ) -> Option<(StreamEvent<'b>, Matched<'a>, usize)> {
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
        Some((StreamEvent::new(&self.name, data), matched, length))
    }

    /// Matches the start of `data`. Returns the content, and the rest.
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
                // Without a text it is not a delta.
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
