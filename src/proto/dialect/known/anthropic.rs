//! Anthropic's Messages: `https://docs.anthropic.com/en/docs/build-with-claude/streaming`.

use serde_json::{Map, Value};

use super::{Facts, delta, index, json, list, number, object, some_text, text};
use crate::proto::dialect::end::End;
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::{Channel, Fact, Usage};
use crate::proto::dialect::fault::Fault;
use crate::proto::dialect::reader::Dialect;

#[derive(Debug, Default)]
pub(super) struct Anthropic {
    /// The end reported in `message_delta`. The message has ended only with `message_stop`.
    reason: Option<End>,
}

impl Dialect for Anthropic {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        let data = match json::parse(event.data) {
            Some(Value::Object(data)) => data,
            _ if event.name == "error" => return facts(Fact::Failed(Fault::default())),
            _ => return facts(Fact::Unreadable),
        };
        match text(&data, "type").unwrap_or(event.name) {
            "message_start" => {
                let message = object(&data, "message").unwrap_or(&data);
                facts(Fact::started(some_text(message, "id"), some_text(message, "model")));
                read_usage(message, facts);
            }
            "content_block_start" => match object(&data, "content_block") {
                Some(block) => read_start(event, block, index(&data, "index"), facts),
                None => facts(Fact::Other),
            },
            "content_block_delta" => {
                let (index, piece) = (index(&data, "index"), object(&data, "delta"));
                let text = |key| piece.and_then(|piece| text(piece, key)).unwrap_or_default();
                facts(match text("type") {
                    "text_delta" => delta(event, 0, Channel::Text, text("text")),
                    "thinking_delta" => delta(event, 0, Channel::Reasoning, text("thinking")),
                    "input_json_delta" => delta(event, 0, Channel::tool_call(index), text("partial_json")),
                    _ => Fact::opaque(0),
                });
            }
            "message_delta" => {
                if let Some(reason) = object(&data, "delta").and_then(|delta| some_text(delta, "stop_reason")) {
                    let end = end_of(reason);
                    self.reason = Some(end);
                    facts(Fact::choice_ended(0, end));
                }
                read_usage(&data, facts);
            }
            "message_stop" => facts(self.reason.map_or(Fact::Marker, Fact::Ended)),
            "content_block_stop" => facts(Fact::Other),
            "error" => {
                facts(Fact::Failed(Fault::inside(&data).or_else(|| Fault::of_object(&data)).unwrap_or_default()));
            }
            // "ping", and future events: the documentation asks clients to tolerate unknown events, which have a type
            // too.
            kind => facts(match Fault::inside(&data) {
                Some(fault) => Fact::Failed(fault),
                None if kind.is_empty() => Fact::Other,
                None => Fact::KeepAlive,
            }),
        }
    }

    fn answer(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        let Some(Value::Object(message)) = json::parse(event.data) else { return };
        if list(&message, "content").is_some_and(|content| !content.is_empty()) {
            facts(Fact::opaque(0));
        } else if let Some(fault) = Fault::inside(&message) {
            return facts(Fact::Failed(fault));
        }
        read_usage(&message, facts);
        if let Some(reason) = some_text(&message, "stop_reason") {
            facts(Fact::Ended(end_of(reason)));
        }
    }

    fn end(&mut self, _: &mut Facts<'_>) {}
}

fn read_start(event: &StreamEvent<'_>, block: &Map<String, Value>, index: u32, facts: &mut Facts<'_>) {
    facts(match text(block, "type") {
        Some("text") => match some_text(block, "text") {
            Some(text) => delta(event, 0, Channel::Text, text),
            None => Fact::Other,
        },
        Some("thinking") => match some_text(block, "thinking") {
            Some(text) => delta(event, 0, Channel::Reasoning, text),
            None => Fact::Other,
        },
        Some("tool_use" | "server_tool_use" | "mcp_tool_use") => {
            delta(event, 0, Channel::tool_call(index), text(block, "name").unwrap_or_default())
        }
        _ => Fact::opaque(0),
    });
}

fn read_usage(from: &Map<String, Value>, facts: &mut Facts<'_>) {
    if let Some(usage) = object(from, "usage") {
        facts(Fact::Usage(Usage::new(number(usage, "input_tokens"), number(usage, "output_tokens"))));
    }
}

fn end_of(reason: &str) -> End {
    match reason {
        "end_turn" | "stop_sequence" | "tool_use" => End::Whole,
        "max_tokens" | "model_context_window_exceeded" => End::Limit,
        "pause_turn" => End::Paused,
        "refusal" => End::Refused,
        _ => End::Unknown,
    }
}
