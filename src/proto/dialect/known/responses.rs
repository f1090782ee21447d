//! OpenAI's Responses: `https://platform.openai.com/docs/api-reference/responses-streaming`.

use serde_json::{Map, Value};

use super::{Facts, delta, index, json, number, object, some_text, text};
use crate::proto::dialect::end::End;
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::{Channel, Fact, Usage};
use crate::proto::dialect::fault::Fault;
use crate::proto::dialect::reader::Dialect;

#[derive(Debug, Default)]
pub(super) struct Responses;

impl Dialect for Responses {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        if event.data.trim_ascii() == b"[DONE]" {
            // OpenRouter and others write it after the end; it carries no information.
            return facts(Fact::Other);
        }
        let Some(Value::Object(data)) = json::parse(event.data) else {
            return facts(if event.name == "error" { Fact::Failed(Fault::default()) } else { Fact::Unreadable });
        };
        let response = object(&data, "response");
        match text(&data, "type").unwrap_or(event.name) {
            "response.created" => {
                facts(Fact::started(
                    response.and_then(|response| some_text(response, "id")),
                    response.and_then(|response| some_text(response, "model")),
                ));
            }
            "response.in_progress" | "response.queued" => facts(Fact::KeepAlive),
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                let kind = text(&data, "type").unwrap_or(event.name);
                let response = response.unwrap_or(&data);
                let ending = kind.strip_prefix("response.").unwrap_or_default();
                // The event's name may say less than its content: some servers end every response with
                // `response.completed`.
                let status = some_text(response, "status").filter(|_| ending == "completed").unwrap_or(ending);
                read_end(status, response, facts);
            }
            "response.output_item.added" => match object(&data, "item") {
                Some(item)
                    if text(item, "type").is_some_and(|kind| kind.ends_with("_call")) && item.contains_key("name") =>
                {
                    let call = Channel::tool_call(index(&data, "output_index"));
                    facts(delta(event, 0, call, text(item, "name").unwrap_or_default()));
                }
                _ => facts(Fact::Other),
            },
            "error" => {
                facts(Fact::Failed(Fault::inside(&data).or_else(|| Fault::of_object(&data)).unwrap_or_default()));
            }
            kind if kind.ends_with(".delta") => {
                let channel = channel(kind, index(&data, "output_index"));
                match text(&data, "delta") {
                    Some(text) => facts(delta(event, 0, channel, text)),
                    None => facts(Fact::opaque(0)),
                }
            }
            "response.image_generation_call.partial_image" => facts(Fact::opaque(0)),
            _ => match Fault::inside(&data) {
                Some(fault) => facts(Fact::Failed(fault)),
                None => facts(Fact::Other),
            },
        }
    }

    fn answer(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        let Some(Value::Object(response)) = json::parse(event.data) else { return };
        let fault = Fault::inside(&response);
        match (text(&response, "status"), fault) {
            (Some(status @ ("completed" | "incomplete" | "failed" | "cancelled")), _) => {
                read_end(status, &response, facts);
            }
            (_, Some(fault)) => facts(Fact::Failed(fault)),
            // It is made in the background, and the caller will poll for it.
            (Some(_), None) => facts(Fact::Ended(End::Paused)),
            (None, None) => {}
        }
    }

    fn end(&mut self, _: &mut Facts<'_>) {}
}

/// Reads how a response ended, by its status.
fn read_end(status: &str, response: &Map<String, Value>, facts: &mut Facts<'_>) {
    if let Some(usage) = object(response, "usage") {
        facts(Fact::Usage(Usage::new(number(usage, "input_tokens"), number(usage, "output_tokens"))));
    }
    let reason = object(response, "incomplete_details").and_then(|details| text(details, "reason"));
    facts(match (status, reason) {
        ("completed", _) => Fact::Ended(End::Whole),
        ("failed", _) => Fact::Failed(Fault::inside(response).unwrap_or_default()),
        ("incomplete", Some("max_output_tokens" | "max_tokens")) => Fact::Ended(End::Limit),
        ("incomplete", Some("content_filter")) => Fact::Ended(End::Filtered),
        _ => Fact::Ended(End::Unknown),
    });
}

fn channel(kind: &str, index: u32) -> Channel {
    match kind {
        "response.output_text.delta" => Channel::Text,
        "response.refusal.delta" => Channel::Refusal,
        "response.reasoning_text.delta"
        | "response.reasoning_summary_text.delta"
        | "response.reasoning_summary.delta" => Channel::Reasoning,
        "response.function_call_arguments.delta"
        | "response.custom_tool_call_input.delta"
        | "response.mcp_call_arguments.delta" => Channel::tool_call(index),
        _ => Channel::Opaque,
    }
}
