//! OpenAI's chat completions and compatible APIs.
//!
//! `https://platform.openai.com/docs/api-reference/chat-streaming`. Additions of other providers are noted in place.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Choices, Facts, delta, index, json, list, number, object, some_text, text};
use crate::proto::dialect::end::End;
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::{Channel, Fact, Usage};
use crate::proto::dialect::fault::Fault;
use crate::proto::dialect::kind::Kind;
use crate::proto::dialect::reader::Dialect;
use crate::proto::json_object::{elements, members};

#[derive(Debug, Default)]
pub(super) struct Chat {
    started: bool,
    choices: Choices,
    failed: bool,
}

/// The meaning of a `finish_reason`.
enum FinishReason {
    End(End),
    Failed,
    None,
}

// === impl Chat ===

impl Chat {
    fn read(&mut self, event: &StreamEvent<'_>, chunk: &Map<String, Value>, facts: &mut Facts<'_>) {
        let error_object = text(chunk, "object") == Some("error") || event.name == "error";
        let fault = Fault::inside(chunk).or_else(|| error_object.then(|| Fault::of_object(chunk)).flatten());
        if let Some(fault) = fault {
            return self.fail(fault, facts);
        }
        let (id, model) = (some_text(chunk, "id"), some_text(chunk, "model"));
        if !self.started && (id.is_some() || model.is_some()) {
            self.started = true;
            facts(Fact::started(id, model));
        }
        let mut said = false;
        for choice in list(chunk, "choices").into_iter().flatten().filter_map(Value::as_object) {
            said |= self.choice(event, choice, facts);
            if self.failed {
                return;
            }
        }
        if let Some(usage) = object(chunk, "usage") {
            facts(Fact::Usage(Usage::new(number(usage, "prompt_tokens"), number(usage, "completion_tokens"))));
        } else if !said {
            facts(if Kind::OpenAiChat.writes("", chunk) { Fact::KeepAlive } else { Fact::Other });
        }
    }

    /// Reads one choice. Returns whether it had content.
    fn choice(&mut self, event: &StreamEvent<'_>, choice: &Map<String, Value>, facts: &mut Facts<'_>) -> bool {
        let number = index(choice, "index");
        self.choices.see(number);
        let mut said = false;
        let mut say = |channel, text: &str| {
            said = true;
            facts(delta(event, number, channel, text));
        };
        if let Some(delta) = object(choice, "delta").or_else(|| object(choice, "message")) {
            read_delta(delta, &mut say);
        }
        // The older text completions.
        if let Some(text) = some_text(choice, "text") {
            say(Channel::Text, text);
        }
        if let Some(fault) = Fault::inside(choice) {
            self.fail(fault, facts);
            return true;
        }
        let reason = text(choice, "finish_reason").unwrap_or_default();
        match FinishReason::of(reason) {
            FinishReason::End(end) => {
                self.choices.end(number, end);
                facts(Fact::choice_ended(number, end));
                true
            }
            FinishReason::Failed => {
                self.fail(Fault::of_code(reason), facts);
                true
            }
            FinishReason::None => said,
        }
    }

    fn fail(&mut self, fault: Fault, facts: &mut Facts<'_>) {
        self.failed = true;
        facts(Fact::Failed(fault));
    }
}

impl Dialect for Chat {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        if event.data.trim_ascii() == b"[DONE]" {
            return facts(match self.choices.all_ended() {
                _ if self.failed => Fact::Other,
                Some(end) => Fact::Ended(end),
                // If one choice ended with a reason, the others must too: this upstream does report reasons.
                None if self.choices.any_ended() => Fact::Other,
                None => Fact::Marker,
            });
        }
        match json::parse(event.data) {
            Some(Value::Object(chunk)) => self.read(event, &chunk, facts),
            // The `error` field of old llama.cpp builds.
            Some(value) if event.name == "error" => self.fail(Fault::of(&value).unwrap_or_default(), facts),
            None if event.name == "error" => self.fail(Fault::of_message(&String::from_utf8_lossy(event.data)), facts),
            _ => facts(Fact::Unreadable),
        }
    }

    fn end(&mut self, facts: &mut Facts<'_>) {
        if let Some(end) = self.choices.all_ended().filter(|_| !self.failed) {
            facts(Fact::Ended(end));
        }
    }

    fn answer(&mut self, event: &StreamEvent<'_>, facts: &mut Facts<'_>) {
        if let Some(Value::Object(mut answer)) = json::parse(event.data) {
            let mut choices = list(&answer, "choices").into_iter().flatten().filter_map(Value::as_object);
            // An error beside an answer does not invalidate the answer.
            if choices.any(|choice| {
                matches!(FinishReason::of(text(choice, "finish_reason").unwrap_or_default()), FinishReason::End(_))
            }) {
                answer.remove("error");
            }
            self.read(event, &answer, facts);
            self.end(facts);
        }
    }
}

/// How an answer ended, and its usage, without building a tree, which takes most of the time of [`Chat::answer`]. `None`
/// for an answer that may contain an error, or is unusual.
pub(in crate::proto::dialect) fn plain_answer(body: &[u8]) -> Option<(Option<End>, Option<Usage>)> {
    // The members below are those of a valid text.
    serde_json::from_slice::<&RawValue>(body).ok()?;
    let (mut listed, mut usage) = (&b"[]"[..], &b"null"[..]);
    for (key, value) in members(body) {
        match key {
            b"choices" => listed = value,
            b"usage" => usage = value,
            b"object" if plain_text(value)? == b"error" => return None,
            key if may_fail(key, value) => return None,
            _ => {}
        }
    }
    let mut choices = Choices::default();
    for choice in elements(listed.starts_with(b"[").then_some(listed)?) {
        read_choice(choice.starts_with(b"{").then_some(choice)?, &mut choices)?;
    }
    Some((choices.all_ended(), plain_usage(usage)?))
}

fn read_choice(choice: &[u8], choices: &mut Choices) -> Option<()> {
    let (mut number, mut reason) = (0, &b""[..]);
    for (key, value) in members(choice) {
        match key {
            b"index" => number = plain_number(value)??,
            b"finish_reason" if value == b"null" => reason = b"",
            b"finish_reason" => reason = plain_text(value)?,
            key if may_fail(key, value) => return None,
            _ => {}
        }
    }
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    match FinishReason::of(std::str::from_utf8(reason).ok()?) {
        FinishReason::End(end) => choices.end(number, end),
        FinishReason::Failed => return None,
        FinishReason::None => choices.see(number),
    }
    Some(())
}

fn plain_usage(usage: &[u8]) -> Option<Option<Usage>> {
    if usage == b"null" {
        return Some(None);
    }
    let (mut input, mut output) = (None, None);
    for (key, value) in members(usage.starts_with(b"{").then_some(usage)?) {
        match key {
            b"prompt_tokens" => input = plain_number(value)?,
            b"completion_tokens" => output = plain_number(value)?,
            key if key.contains(&b'\\') => return None,
            _ => {}
        }
    }
    Some(Some(Usage::new(input, output)))
}

/// Whether a member may report an error, or has another name than it seems.
fn may_fail(key: &[u8], value: &[u8]) -> bool {
    match key {
        b"error" => value != b"null",
        b"success" | b"errors" => true,
        key => key.contains(&b'\\'),
    }
}

/// A text without escapes.
fn plain_text(value: &[u8]) -> Option<&[u8]> {
    let text = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    (!text.contains(&b'\\')).then_some(text)
}

/// A number written in digits, or null.
fn plain_number(value: &[u8]) -> Option<Option<u64>> {
    if value == b"null" {
        return Some(None);
    }
    std::str::from_utf8(value).ok()?.parse().ok().map(Some)
}

/// Reads a choice's addition: a `delta` of a stream, or the `message` of an answer.
fn read_delta(delta: &Map<String, Value>, say: &mut impl FnMut(Channel, &str)) {
    // DeepSeek, llama.cpp and older vLLM; OpenRouter and newer vLLM.
    for key in ["reasoning_content", "reasoning"] {
        if let Some(text) = some_text(delta, key) {
            say(Channel::Reasoning, text);
        }
    }
    let has_items = |key| list(delta, key).is_some_and(|items| !items.is_empty());
    if has_items("reasoning_details") && some_text(delta, "reasoning").is_none() {
        say(Channel::Opaque, "");
    }
    match delta.get("content") {
        Some(Value::String(text)) if !text.is_empty() => say(Channel::Text, text),
        // Mistral: pieces of several kinds.
        Some(Value::Array(parts)) => parts.iter().filter_map(Value::as_object).for_each(|part| read_part(part, say)),
        _ => {}
    }
    if let Some(text) = some_text(delta, "refusal") {
        say(Channel::Refusal, text);
    }
    for call in list(delta, "tool_calls").into_iter().flatten().filter_map(Value::as_object) {
        read_call(object(call, "function").unwrap_or(call), index(call, "index"), say);
    }
    if let Some(call) = object(delta, "function_call") {
        read_call(call, 0, say);
    }
    if object(delta, "audio").is_some() || has_items("annotations") || has_items("images") {
        say(Channel::Opaque, "");
    }
}

fn read_call(call: &Map<String, Value>, index: u32, say: &mut impl FnMut(Channel, &str)) {
    for key in ["name", "arguments", "input"] {
        if let Some(text) = some_text(call, key) {
            say(Channel::tool_call(index), text);
        }
    }
}

fn read_part(part: &Map<String, Value>, say: &mut impl FnMut(Channel, &str)) {
    match text(part, "type") {
        Some("text") => say(Channel::Text, text(part, "text").unwrap_or_default()),
        Some("thinking") => {
            for thought in list(part, "thinking").into_iter().flatten().filter_map(Value::as_object) {
                say(Channel::Reasoning, text(thought, "text").unwrap_or_default());
            }
        }
        _ => say(Channel::Opaque, ""),
    }
}

// === impl Reason ===

impl FinishReason {
    fn of(reason: &str) -> Self {
        match reason {
            // Many write `null` until the end; some write an empty text.
            "" => Self::None,
            "stop" | "tool_calls" | "function_call" => Self::End(End::Whole),
            // Mistral; Zhipu.
            "length" | "model_length" | "model_context_window_exceeded" => Self::End(End::Limit),
            "content_filter" | "sensitive" => Self::End(End::Filtered),
            // OpenRouter and Mistral; DeepSeek; vLLM and SGLang; Zhipu.
            "error" | "insufficient_system_resource" | "aborted" | "abort" | "network_error" => Self::Failed,
            _ => Self::End(End::Unknown),
        }
    }
}
