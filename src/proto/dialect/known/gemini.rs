//! Gemini's `generateContent`: `https://ai.google.dev/api/generate-content`.

use serde_json::{Map, Value};

use super::{Choices, Facts, delta, index, json, list, number, object, some_text, text};
use crate::proto::dialect::end::End;
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::{Channel, Fact, Usage};
use crate::proto::dialect::fault::Fault;
use crate::proto::dialect::kind::Kind;
use crate::proto::dialect::reader::Dialect;

/// It has no closing event: the stream's end is the end, if each candidate has given its reason.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    started: bool,
    candidates: Choices,
    failed: bool,
}

// === impl Gemini ===

impl Gemini {
    fn read(&mut self, event: &StreamEvent<'_>, chunk: &Map<String, Value>, facts: &mut Facts<'_>) {
        if let Some(fault) = Fault::inside(chunk) {
            return self.fail(fault, facts);
        }
        let (id, model) = (some_text(chunk, "responseId"), some_text(chunk, "modelVersion"));
        if !self.started && (id.is_some() || model.is_some()) {
            self.started = true;
            facts(Fact::started(id, model));
        }
        let mut said = false;
        for candidate in list(chunk, "candidates").into_iter().flatten().filter_map(Value::as_object) {
            said |= self.candidate(event, candidate, facts);
        }
        if object(chunk, "promptFeedback").is_some_and(|feedback| some_text(feedback, "blockReason").is_some()) {
            self.end_candidate(0, End::Filtered, facts);
            said = true;
        }
        if let Some(usage) = object(chunk, "usageMetadata") {
            let parts = [number(usage, "candidatesTokenCount"), number(usage, "thoughtsTokenCount")];
            let output = parts.iter().flatten().copied().reduce(u64::saturating_add);
            facts(Fact::Usage(Usage::new(number(usage, "promptTokenCount"), output)));
        } else if !said {
            facts(if Kind::Gemini.writes("", chunk) { Fact::KeepAlive } else { Fact::Other });
        }
    }

    /// Reads one candidate. Returns whether it had content.
    fn candidate(&mut self, event: &StreamEvent<'_>, candidate: &Map<String, Value>, facts: &mut Facts<'_>) -> bool {
        let number = index(candidate, "index");
        self.candidates.see(number);
        let mut said = false;
        let parts = object(candidate, "content").and_then(|content| list(content, "parts"));
        for part in parts.into_iter().flatten().filter_map(Value::as_object) {
            said |= read_part(event, number, part, facts);
        }
        let Some(reason) = some_text(candidate, "finishReason") else { return said };
        match reason {
            "STOP" => self.end_candidate(number, End::Whole, facts),
            "MAX_TOKENS" => self.end_candidate(number, End::Limit, facts),
            // The caller must ask for the rest with the token in this event, as the official client does.
            "CONTINUATION" => self.end_candidate(number, End::Paused, facts),
            "SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "MODEL_ARMOR"
            | "ESCALATION" => self.end_candidate(number, End::Filtered, facts),
            "MALFORMED_FUNCTION_CALL"
            | "UNEXPECTED_TOOL_CALL"
            | "MALFORMED_RESPONSE"
            | "MISSING_THOUGHT_SIGNATURE"
            | "TOO_MANY_TOOL_CALLS"
            | "OTHER" => {
                let message = text(candidate, "finishMessage").unwrap_or_default();
                self.fail(Fault::of_code(reason).or_message(message), facts);
            }
            reason if reason.starts_with("IMAGE_") => self.end_candidate(number, End::Filtered, facts),
            _ => self.end_candidate(number, End::Unknown, facts),
        }
        true
    }

    fn end_candidate(&mut self, number: u32, end: End, facts: &mut Facts<'_>) {
        self.candidates.end(number, end);
        facts(Fact::choice_ended(number, end));
    }

    fn fail(&mut self, fault: Fault, facts: &mut Facts<'_>) {
        self.failed = true;
        facts(Fact::Failed(fault));
    }
}

impl Dialect for Gemini {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        match json::parse(event.data) {
            Some(Value::Object(chunk)) => self.read(event, &chunk, facts),
            _ => facts(Fact::Unreadable),
        }
    }

    fn end(&mut self, facts: &mut Facts<'_>) {
        if let Some(end) = self.candidates.all_ended().filter(|_| !self.failed) {
            facts(Fact::Ended(end));
        }
    }

    fn answer(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        if let Some(Value::Object(mut answer)) = json::parse(event.data) {
            if list(&answer, "candidates").is_some_and(|candidates| !candidates.is_empty()) {
                answer.remove("error");
            }
            self.read(event, &answer, facts);
            self.end(facts);
        }
    }
}

fn read_part(event: &StreamEvent<'_>, number: u32, part: &Map<String, Value>, facts: &mut Facts<'_>) -> bool {
    let thought = part.get("thought") == Some(&Value::Bool(true));
    let signed = some_text(part, "thoughtSignature").is_some();
    let fact = match (some_text(part, "text"), object(part, "functionCall")) {
        (Some(text), _) => delta(event, number, if thought { Channel::Reasoning } else { Channel::Text }, text),
        (None, Some(call)) => delta(event, number, Channel::tool_call(0), text(call, "name").unwrap_or_default()),
        // An empty text is a keep-alive.
        (None, None) if part.contains_key("text") && !signed => return false,
        (None, None) => Fact::opaque(number),
    };
    let opaque_too = signed && fact != Fact::opaque(number);
    facts(fact);
    if opaque_too {
        facts(Fact::opaque(number));
    }
    true
}
