//! A second answer to the same request, of which only the part after the caller's part is forwarded.
//!
//! # Why this is correct
//!
//! Let P be the caller's part, and R the new answer. If R begins with P, R is forwarded without P: the caller then holds
//! R, which is an answer of that model to that request. Correctness does not depend on the model repeating itself. If R
//! differs from P anywhere, or ends before P does, nothing of R is forwarded.
//!
//! Content that cannot be compared prevents a restart: tool calls (the caller may have run them), content other than
//! text, several choices, and references to places in the text.

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value};

use super::NotResumed;
use super::history::{Atom, Comparison, History, Overlap};
use crate::proto::dialect::{Channel, Fact, Kind, StreamReader, Usage};
use crate::proto::resume::{cut_text, structure_of, with_id};
use crate::proto::sse::Block;

/// The content of one event.
#[derive(Default)]
pub(crate) struct EventContent {
    pub(crate) atoms: Vec<Atom>,
    /// It has content that cannot be compared.
    pub(crate) opaque: bool,
    /// The answer has begun, with this id and model.
    pub(crate) started: Option<(String, Option<String>)>,
    /// The tokens so far.
    pub(crate) usage: Option<Usage>,
    pub(crate) failed: bool,
    pub(crate) garbage: bool,
}

/// The state of the first answer.
#[derive(Clone, Default)]
pub(crate) struct Original {
    pub(crate) id: String,
    pub(crate) model: Option<String>,
}

/// The second answer.
pub(crate) struct Restart {
    comparison: Comparison,
    kind: Kind,
    original: Original,
    id: String,
    /// Whether another model may continue.
    other_model: bool,
    /// Whether it comes from another upstream.
    is_foreign: bool,
    model_checked: bool,
}

/// The text of another model must agree for this many characters: some sentences.
const OTHER_MODEL_CHARACTERS: usize = 200;
/// Members that refer to places in the text, or to content after them.
const BOUND_TO_TEXT: [&[u8]; 7] = [
    b"\"logprobs\"",
    b"\"logprobsResult\"",
    b"\"citations\"",
    b"\"search_results\"",
    b"\"citationMetadata\"",
    b"\"groundingMetadata\"",
    b"\"urlContextMetadata\"",
];

/// Members of a chat's delta that are compared, or carry no content. A tool call is neither, even if only its id has
/// come; servers add other members, for thoughts under other names and for signatures.
const COMPARED: [&str; 5] = ["role", "content", "reasoning_content", "reasoning", "refusal"];

/// Members of a chat's choice that are compared, are checked by [`BOUND_TO_TEXT`], or say nothing of the text.
const OF_A_CHOICE: [&str; 8] = [
    "index",
    "delta",
    "message",
    "text",
    "finish_reason",
    "native_finish_reason",
    "logprobs",
    "content_filter_results",
];

// === impl Said ===

impl EventContent {
    /// Reads an event.
    pub(crate) fn read(reader: &mut StreamReader, raw: &[u8], block: &Block<'_>) -> Self {
        let mut said = Self::default();
        let data = block.data.as_deref().unwrap_or_default();
        said.opaque = is_bound_to_text(data);
        let before = reader.kind();
        said.atoms.extend(structure_of(before, block).map(Atom::Mark));
        reader.read(raw, |fact, _| said.note(&fact));
        if before.is_none() {
            // The first event shows the dialect.
            let structure = structure_of(reader.kind(), block).map(Atom::Mark);
            said.atoms.splice(0..0, structure);
        }
        said.opaque |= reader.kind() == Some(Kind::OpenAiChat) && says_more(data);
        said
    }

    fn note(&mut self, fact: &Fact<'_>) {
        match fact {
            Fact::Delta { choice: 0, channel, text } if !text.is_empty() => {
                let text = text.decode().into_owned();
                // Half a surrogate pair is decoded as this; which half is unknown.
                self.opaque |= text.contains('\u{FFFD}');
                match channel {
                    Channel::Text => self.atoms.push(Atom::Text { channel: 1, text }),
                    Channel::Reasoning => self.atoms.push(Atom::Text { channel: 2, text }),
                    Channel::Refusal => self.atoms.push(Atom::Text { channel: 3, text }),
                    _ => self.opaque = true,
                }
            }
            Fact::Delta { choice: 0, channel: Channel::Text | Channel::Reasoning | Channel::Refusal, .. } => {}
            Fact::Delta { .. } => self.opaque = true,
            Fact::ChoiceEnded { choice: 0, end } => self.atoms.push(Atom::Mark(end.as_str().as_bytes().to_vec())),
            Fact::ChoiceEnded { .. } => self.opaque = true,
            Fact::Started { id, model } => {
                self.started = Some((id.unwrap_or_default().to_owned(), model.map(str::to_owned)));
            }
            Fact::Usage(usage) => Usage::note(&mut self.usage, *usage),
            Fact::Failed(_) => self.failed = true,
            Fact::Unreadable => self.garbage = true,
            _ => {}
        }
    }
}

fn is_bound_to_text(data: &[u8]) -> bool {
    BOUND_TO_TEXT.iter().any(|key| {
        memmem::find_iter(data, key).any(|at| {
            let behind = data.get(at + key.len()..).unwrap_or_default().trim_ascii_start();
            let value = behind.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
            value.is_some_and(|value| ![&b"null"[..], b"[]", b"{}"].iter().any(|nothing| value.starts_with(nothing)))
        })
    })
}

/// Whether a chunk of a chat has content that is not compared.
fn says_more(data: &[u8]) -> bool {
    let chunk: Value = serde_json::from_slice(data).unwrap_or_default();
    let choices = chunk.get("choices").and_then(Value::as_array).into_iter().flatten();
    choices.filter_map(Value::as_object).any(|choice| {
        let delta = choice.get("delta").or_else(|| choice.get("message")).and_then(Value::as_object);
        has_other(choice, &OF_A_CHOICE) || delta.is_some_and(|delta| has_other(delta, &COMPARED))
    })
}

/// Whether an object has content under another name.
fn has_other(object: &Map<String, Value>, names: &[&str]) -> bool {
    object.iter().any(|(name, value)| !names.contains(&name.as_str()) && !is_nothing(value))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

// === impl Restart ===

impl Restart {
    pub(crate) fn new(kind: Kind, had: History, original: Original, other_model: bool, is_foreign: bool) -> Self {
        let comparison = Comparison::new(had);
        Self { comparison, kind, original, id: String::new(), other_model, is_foreign, model_checked: false }
    }

    /// Reads one event of the new answer, and its token counts. Returns the part to forward.
    pub(crate) fn block(
        &mut self,
        reader: &mut StreamReader,
        raw: &Bytes,
        usage: &mut Option<Usage>,
    ) -> Result<Bytes, NotResumed> {
        let block = Block::parse(raw);
        let said = EventContent::read(reader, raw, &block);
        if let Some(reported) = said.usage {
            Usage::note(usage, reported);
        }
        if !self.comparison.is_complete() {
            if said.garbage || said.failed {
                return Err(NotResumed::Diverged);
            }
            if said.opaque {
                return Err(NotResumed::NotComparable);
            }
        }
        if let Some((id, model)) = &said.started {
            self.check_model(model.as_deref())?;
            self.id.clone_from(id);
        }
        if said.atoms.is_empty() {
            let shown = self.comparison.is_complete() && said.started.is_none() && self.model_checked;
            return Ok(if shown || !block.has_fields { self.mapped(raw.clone()) } else { Bytes::new() });
        }
        if !self.model_checked {
            return Err(NotResumed::OtherModel);
        }
        let was_complete = self.comparison.is_complete();
        let overlaps: Vec<Overlap> =
            said.atoms.iter().map(|atom| self.comparison.next(atom)).collect::<Result<_, NotResumed>>()?;
        if was_complete {
            return Ok(self.mapped(raw.clone()));
        }
        if !self.comparison.is_complete() || overlaps.iter().all(|overlap| *overlap == Overlap::Inside) {
            return Ok(Bytes::new());
        }
        self.cut(&block, &said.atoms, &overlaps)
    }

    /// Returns the part of an event that the caller does not have.
    fn cut(&self, block: &Block<'_>, atoms: &[Atom], overlaps: &[Overlap]) -> Result<Bytes, NotResumed> {
        // A text, and perhaps the end of its choice.
        let (Some(Atom::Text { text, .. }), Some(overlap)) = (atoms.first(), overlaps.first()) else {
            return Err(NotResumed::NotComparable);
        };
        let behind = atoms.iter().zip(overlaps).skip(1);
        if behind.clone().any(|(atom, overlap)| *overlap != Overlap::Behind || !matches!(atom, Atom::Mark(_))) {
            return Err(NotResumed::NotComparable);
        }
        let inside = match overlap {
            Overlap::Across(inside) => *inside,
            Overlap::Inside => text.len(),
            Overlap::Behind => 0,
        };
        let cut = cut_text(self.kind, block, text, inside).ok_or(NotResumed::NotComparable)?;
        Ok(self.mapped(cut.into()))
    }

    /// Writes the id of the caller's answer into an event.
    fn mapped(&self, raw: Bytes) -> Bytes {
        with_id(&raw, &self.id, &self.original.id).map_or(raw, Bytes::from)
    }

    fn check_model(&mut self, model: Option<&str>) -> Result<(), NotResumed> {
        let same = !self.is_foreign && model.is_some() && model == self.original.model.as_deref();
        let enough = self.other_model && self.comparison.characters() >= OTHER_MODEL_CHARACTERS;
        self.model_checked = same || enough;
        if self.model_checked { Ok(()) } else { Err(NotResumed::OtherModel) }
    }

    /// Whether the new answer contains all of the caller's part.
    pub(crate) fn is_complete(&self) -> bool {
        self.comparison.is_complete()
    }
}
