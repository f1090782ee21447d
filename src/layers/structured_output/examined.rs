//! The content of an answer, and whether it is valid.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::request::CheckedRequest;
use crate::policy::structured::{Complaint, Finding, OutputSchema, ToolSchemas, examine};
use crate::proto::answer_text::{AnswerText, replaced, unquoted};
use crate::proto::dialect::{AnswerReader, Channel, End, Fact, Framing, Kind, StreamReader, Usage};
use crate::proto::media_type::{self, BodyForm};
use crate::proto::tool_calls::{self, ToolCall};
use crate::rejection::Rejection;

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerForm {
    Json,
    Stream(Framing),
}

/// The check of an answer.
#[derive(Clone)]
pub(super) struct Check {
    kind: Kind,
    form: AnswerForm,
    schema: Option<OutputSchema>,
    wants_json: bool,
    tools: Option<ToolSchemas>,
    extract: bool,
}

/// The result of the check.
pub(super) struct Examined {
    pub(super) usage: Option<Usage>,
    pub(super) disposition: Disposition,
}

pub(super) enum Disposition {
    /// Return it unchanged: it is valid, or not an attempt (a refusal, a filtered answer, a tool call).
    Return,
    /// Return it unchanged, unless there is a complete answer: it is an error, truncated, or ends without proof.
    Unfinished,
    /// Return it with this body.
    Replace(Vec<u8>),
    /// This text is invalid.
    Invalid(String, Complaint),
}

/// Larger answers are checked on threads for blocking work.
const LARGE: usize = 64 * 1024;

// === impl AnswerForm ===

impl AnswerForm {
    /// `None` if the answer is not checked.
    pub(super) fn of<B>(response: &Response<B>, asked: &CheckedRequest) -> Option<Self> {
        let headers = response.headers();
        if response.status() != StatusCode::OK || Rejection::of(response).is_some() || media_type::is_encoded(headers) {
            return None;
        }
        match BodyForm::of(headers) {
            BodyForm::EventStream if asked.streams => Some(Self::Stream(Framing::EventStream)),
            BodyForm::JsonLines if asked.kind == Kind::Ollama && asked.streams => Some(Self::Stream(Framing::Lines)),
            // Gemini also streams a JSON array.
            BodyForm::Json if asked.kind == Kind::Gemini && asked.streams => Some(Self::Stream(Framing::Array)),
            BodyForm::Json => Some(Self::Json),
            _ => None,
        }
    }
}

// === impl Check ===

impl Check {
    pub(super) fn new(asked: &CheckedRequest, form: AnswerForm, extract: bool) -> Self {
        let (schema, tools) = (asked.schema.clone(), asked.tools.clone());
        Self { kind: asked.kind, form, schema, wants_json: asked.wants_json, tools, extract }
    }

    /// Whether a body of this length is checked so quickly that other calls may wait for it.
    pub(super) fn is_quick(&self, length: usize) -> bool {
        length <= LARGE
            && self.schema.as_ref().is_none_or(|schema| schema.is_quick(length))
            && self.tools.as_ref().is_none_or(|tools| tools.is_quick(length))
    }

    pub(super) fn run(&self, body: &Bytes) -> Examined {
        match self.form {
            AnswerForm::Json => self.answer(body),
            AnswerForm::Stream(framing) => self.stream(body, framing),
        }
    }

    fn answer(&self, body: &[u8]) -> Examined {
        let mut reader = AnswerReader::new();
        reader.read(body);
        let answer = reader.end(&mut *self.kind.dialect());
        let end = answer.end.filter(|_| answer.fault.is_none());
        let disposition = if end == Some(End::Whole) { self.whole(body) } else { Disposition::of_other(end) };
        Examined { usage: answer.usage, disposition }
    }

    /// Checks an answer that the model reported as complete.
    fn whole(&self, body: &[u8]) -> Disposition {
        if let Some(disposition) = self.calls(body) {
            return disposition;
        }
        if !self.wants_json {
            return Disposition::Return;
        }
        match AnswerText::of(self.kind, body) {
            AnswerText::One { before, raw, after } => match unquoted(raw) {
                Some(text) => match examine(&text, self.schema.as_ref(), self.extract) {
                    Finding::Valid => Disposition::Return,
                    Finding::Extracted(json) => Disposition::Replace(replaced(before, &json, after)),
                    Finding::Invalid(complaint) => Disposition::Invalid(text, complaint),
                },
                None => Disposition::Return,
            },
            AnswerText::Empty => self.text(String::new()),
            AnswerText::Other => Disposition::Return,
        }
    }

    /// Checks the tool calls in an answer, if it has some and they are checked.
    fn calls(&self, body: &[u8]) -> Option<Disposition> {
        let calls = self.tools.as_ref().map(|tools| (tools, tool_calls::called(self.kind, body)));
        let (tools, calls) = calls.filter(|(_, calls)| !calls.is_empty())?;
        let Some(complaint) = tools.examine(&calls) else { return Some(Disposition::Return) };
        let said: Vec<_> = calls.iter().map(|ToolCall { name, arguments }| format!("{name}({arguments})")).collect();
        Some(Disposition::Invalid(said.join("\n"), complaint))
    }

    /// The text of a stream cannot be replaced: it is valid or not.
    fn stream(&self, body: &[u8], framing: Framing) -> Examined {
        let mut reader = StreamReader::new(Some(self.kind), framing);
        let (mut said, mut is_other, mut usage) = (String::new(), false, None::<Usage>);
        let mut note = |fact: Fact<'_>| match fact {
            Fact::Delta { choice: 0, channel: Channel::Text, text } => said += &text.decode(),
            Fact::Delta { channel: Channel::Reasoning, .. } => {}
            Fact::Delta { .. } => is_other = true,
            Fact::Usage(reported) => {
                let before = usage.unwrap_or_default();
                usage = Some(Usage::new(reported.input.or(before.input), reported.output.or(before.output)));
            }
            _ => {}
        };
        reader.read(body, |fact, _| note(fact));
        reader.end(|fact, _| note(fact));
        let disposition = match reader.ended() {
            Some(End::Whole) if is_other || !self.wants_json => Disposition::Return,
            Some(End::Whole) => self.text(said),
            end => Disposition::of_other(end),
        };
        Examined { usage, disposition }
    }

    fn text(&self, text: String) -> Disposition {
        match examine(&text, self.schema.as_ref(), false) {
            Finding::Valid | Finding::Extracted(_) => Disposition::Return,
            Finding::Invalid(complaint) => Disposition::Invalid(text, complaint),
        }
    }
}

// === impl Disposition ===

impl Disposition {
    /// Handles an answer that did not end normally.
    fn of_other(end: Option<End>) -> Self {
        // Paused for a tool call.
        if matches!(end, Some(End::Refused | End::Filtered | End::Paused)) { Self::Return } else { Self::Unfinished }
    }
}
