//! Cohere's chat, version 2: `https://docs.cohere.com/v2/docs/streaming`.

use serde_json::{Map, Value};

use super::{Facts, delta, index, json, number, object, some_text, text};
use crate::proto::dialect::end::End;
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::{Channel, Fact, Usage};
use crate::proto::dialect::fault::Fault;
use crate::proto::dialect::reader::Dialect;

#[derive(Debug, Default)]
pub(super) struct Cohere;

impl Dialect for Cohere {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        if event.data.trim_ascii() == b"[DONE]" {
            return facts(Fact::Other);
        }
        let Some(Value::Object(data)) = json::parse(event.data) else { return facts(Fact::Unreadable) };
        let piece = object(&data, "delta");
        let message = piece.and_then(|delta| object(delta, "message"));
        match text(&data, "type").unwrap_or(event.name) {
            "message-start" => facts(Fact::started(some_text(&data, "id"), None)),
            "content-delta" => {
                let content = message.and_then(|message| object(message, "content"));
                let text = |key| content.and_then(|content| text(content, key));
                facts(match (text("text"), text("thinking")) {
                    (Some(text), _) => delta(event, 0, Channel::Text, text),
                    (None, Some(text)) => delta(event, 0, Channel::Reasoning, text),
                    (None, None) => Fact::opaque(0),
                });
            }
            "tool-plan-delta" => {
                let plan = message.and_then(|message| text(message, "tool_plan"));
                facts(delta(event, 0, Channel::Reasoning, plan.unwrap_or_default()));
            }
            "tool-call-start" | "tool-call-delta" => {
                let call = message.and_then(|message| object(message, "tool_calls"));
                let function = call.and_then(|call| object(call, "function"));
                let text = |key| function.and_then(|function| some_text(function, key));
                let text = text("name").or_else(|| text("arguments")).unwrap_or_default();
                facts(delta(event, 0, Channel::tool_call(index(&data, "index")), text));
            }
            "message-end" => read_end(piece.unwrap_or(&data), facts),
            "citation-start" => facts(Fact::opaque(0)),
            _ => match Fault::inside(&data) {
                Some(fault) => facts(Fact::Failed(fault)),
                None => facts(Fact::Other),
            },
        }
    }

    fn answer(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        let Some(Value::Object(answer)) = json::parse(event.data) else { return };
        match Fault::inside(&answer) {
            Some(fault) if some_text(&answer, "finish_reason").is_none() => facts(Fact::Failed(fault)),
            _ => read_end(&answer, facts),
        }
    }

    fn end(&mut self, _: &mut Facts<'_>) {}
}

/// Reads `finish_reason`, in the `delta` of the last event or in an answer.
fn read_end(from: &Map<String, Value>, facts: &mut Facts<'_>) {
    if let Some(tokens) = object(from, "usage").and_then(|usage| object(usage, "tokens")) {
        facts(Fact::Usage(Usage::new(number(tokens, "input_tokens"), number(tokens, "output_tokens"))));
    }
    match some_text(from, "finish_reason") {
        Some("COMPLETE" | "STOP_SEQUENCE" | "TOOL_CALL") => facts(Fact::Ended(End::Whole)),
        Some("MAX_TOKENS" | "ERROR_LIMIT") => facts(Fact::Ended(End::Limit)),
        Some("ERROR_TOXIC") => facts(Fact::Ended(End::Filtered)),
        Some(reason @ ("ERROR" | "TIMEOUT")) => {
            let message = text(from, "error").unwrap_or_default();
            facts(Fact::Failed(Fault::of_code(reason).or_message(message)));
        }
        Some(_) => facts(Fact::Ended(End::Unknown)),
        None => facts(Fact::Other),
    }
}
