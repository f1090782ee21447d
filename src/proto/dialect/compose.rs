//! Writes a text as an answer of a dialect, for an operator's text in place of a model's.

use serde_json::{Value, json};

use super::super::media_type::NDJSON;
use super::kind::Kind;

/// An answer with one text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Composed<'a> {
    pub(crate) kind: Kind,
    /// The path of the request: some dialects have two forms of an answer.
    pub(crate) path: &'a str,
    /// Whether its query has `alt=sse`.
    pub(crate) sse: bool,
    pub(crate) model: &'a str,
    pub(crate) text: &'a str,
    /// Random, so that answers are distinct.
    pub(crate) id: u64,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

// === impl Composed ===

impl Composed<'_> {
    /// Returns the content type and the answer.
    pub(crate) fn answer(&self) -> (&'static str, String) {
        (JSON, self.whole().to_string())
    }

    /// The same as a stream, in the dialect's format.
    pub(crate) fn stream(&self) -> (&'static str, String) {
        match self.kind {
            Kind::OpenAiChat => (EVENTS, self.chat_stream()),
            Kind::OpenAiResponses => (EVENTS, self.responses_stream()),
            Kind::Anthropic => (EVENTS, self.anthropic_stream()),
            Kind::Gemini if self.sse => (EVENTS, unnamed(&self.whole())),
            Kind::Gemini => (JSON, Value::Array(vec![self.whole()]).to_string()),
            Kind::Cohere => (EVENTS, self.cohere_stream()),
            Kind::Ollama => (NDJSON, self.ollama_lines()),
        }
    }

    fn whole(&self) -> Value {
        let (model, text) = (self.model, self.text);
        match self.kind {
            Kind::OpenAiChat if self.is_completion() => json!({
                "id": self.id("cmpl-"), "object": "text_completion", "created": self.created, "model": model,
                "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": "stop" }],
                "usage": { "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 },
            }),
            Kind::OpenAiChat => json!({
                "id": self.id("chatcmpl-"), "object": "chat.completion", "created": self.created, "model": model,
                "choices": [{
                    "index": 0, "message": { "role": "assistant", "content": text, "refusal": null },
                    "logprobs": null, "finish_reason": "stop",
                }],
                "usage": { "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 },
            }),
            Kind::OpenAiResponses => self.response("completed", &[self.message("completed", &[self.part(text)])]),
            Kind::Anthropic => self.anthropic(&[json!({ "type": "text", "text": text })], Some("end_turn")),
            Kind::Gemini => json!({
                "candidates": [{
                    "content": { "parts": [{ "text": text }], "role": "model" }, "finishReason": "STOP", "index": 0,
                }],
                "usageMetadata": { "promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0 },
                "modelVersion": model, "responseId": self.id(""),
            }),
            Kind::Cohere => json!({
                "id": self.id(""), "finish_reason": "COMPLETE",
                "message": { "role": "assistant", "content": [{ "type": "text", "text": text }] },
                "usage": { "tokens": { "input_tokens": 0, "output_tokens": 0 } },
            }),
            Kind::Ollama => self.ollama(text, true),
        }
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}buttress{:016x}", self.id)
    }

    /// The older text completions.
    fn is_completion(&self) -> bool {
        !self.path.trim_end_matches('/').ends_with("/chat/completions")
    }

    fn chat_stream(&self) -> String {
        let whole = self.whole();
        let chunk = |choice: Value| {
            let object = if self.is_completion() { "text_completion" } else { "chat.completion.chunk" };
            unnamed(&json!({
                "id": whole["id"], "object": object, "created": self.created, "model": self.model, "choices": [choice],
            }))
        };
        let (said, stopped) = if self.is_completion() {
            (
                json!({ "text": self.text, "index": 0, "logprobs": null, "finish_reason": null }),
                json!({ "text": "", "index": 0, "logprobs": null, "finish_reason": "stop" }),
            )
        } else {
            (
                json!({ "index": 0, "delta": { "role": "assistant", "content": self.text }, "finish_reason": null }),
                json!({ "index": 0, "delta": {}, "finish_reason": "stop" }),
            )
        };
        [chunk(said), chunk(stopped), "data: [DONE]\n\n".to_owned()].concat()
    }

    fn part(&self, text: &str) -> Value {
        json!({ "type": "output_text", "text": text, "annotations": [] })
    }

    fn message(&self, status: &str, content: &[Value]) -> Value {
        json!({ "id": self.id("msg_"), "type": "message", "status": status, "role": "assistant", "content": content })
    }

    fn response(&self, status: &str, output: &[Value]) -> Value {
        json!({
            "id": self.id("resp_"), "object": "response", "created_at": self.created, "status": status, "error": null,
            "incomplete_details": null, "instructions": null, "metadata": {}, "model": self.model, "output": output,
            "parallel_tool_calls": true, "temperature": null, "tool_choice": "auto", "tools": [], "top_p": null,
            "usage": {
                "input_tokens": 0, "input_tokens_details": { "cached_tokens": 0 },
                "output_tokens": 0, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 0,
            },
        })
    }

    fn responses_stream(&self) -> String {
        let (item, at) = (self.id("msg_"), json!(0));
        let (begun, done) = (self.message("in_progress", &[]), self.message("completed", &[self.part(self.text)]));
        let events = [
            json!({ "type": "response.created", "response": self.response("in_progress", &[]) }),
            json!({ "type": "response.in_progress", "response": self.response("in_progress", &[]) }),
            json!({ "type": "response.output_item.added", "output_index": at, "item": begun }),
            json!({ "type": "response.content_part.added", "item_id": item, "output_index": at, "content_index": at,
                "part": self.part("") }),
            json!({ "type": "response.output_text.delta", "item_id": item, "output_index": at, "content_index": at,
                "delta": self.text, "logprobs": [] }),
            json!({ "type": "response.output_text.done", "item_id": item, "output_index": at, "content_index": at,
                "text": self.text, "logprobs": [] }),
            json!({ "type": "response.content_part.done", "item_id": item, "output_index": at, "content_index": at,
                "part": self.part(self.text) }),
            json!({ "type": "response.output_item.done", "output_index": at, "item": done }),
            json!({ "type": "response.completed", "response": self.whole() }),
        ];
        let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
            event["sequence_number"] = json!(number);
            named(&event)
        });
        numbered.collect()
    }

    fn anthropic(&self, content: &[Value], stop_reason: Option<&str>) -> Value {
        json!({
            "id": self.id("msg_"), "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": null, "usage": { "input_tokens": 0, "output_tokens": 0 },
        })
    }

    fn anthropic_stream(&self) -> String {
        let events = [
            json!({ "type": "message_start", "message": self.anthropic(&[], None) }),
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": self.text } }),
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                "usage": { "output_tokens": 0 } }),
            json!({ "type": "message_stop" }),
        ];
        events.iter().map(named).collect()
    }

    fn cohere_stream(&self) -> String {
        let start = json!({ "role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": [] });
        let events = [
            json!({ "type": "message-start", "id": self.id(""), "delta": { "message": start } }),
            json!({ "type": "content-start", "index": 0,
                "delta": { "message": { "content": { "type": "text", "text": "" } } } }),
            json!({ "type": "content-delta", "index": 0, "delta": { "message": { "content": { "text": self.text } } } }),
            json!({ "type": "content-end", "index": 0 }),
            json!({ "type": "message-end", "delta": { "finish_reason": "COMPLETE",
                "usage": { "tokens": { "input_tokens": 0, "output_tokens": 0 } } } }),
        ];
        events.iter().map(named).collect()
    }

    fn ollama(&self, text: &str, done: bool) -> Value {
        let mut answer = json!({ "model": self.model, "created_at": rfc3339(self.created), "done": done });
        if self.path.trim_end_matches('/').ends_with("/generate") {
            answer["response"] = json!(text);
        } else {
            answer["message"] = json!({ "role": "assistant", "content": text });
        }
        if done {
            answer["done_reason"] = json!("stop");
        }
        answer
    }

    fn ollama_lines(&self) -> String {
        format!("{}\n{}\n", self.ollama(self.text, false), self.ollama("", true))
    }
}

fn unnamed(event: &Value) -> String {
    format!("data: {event}\n\n")
}

fn named(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event.get("type").and_then(Value::as_str).unwrap_or_default())
}

/// `1994-11-06T08:49:37Z`.
fn rfc3339(seconds: u64) -> String {
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    // No clock is beyond the year 9999.
    while year < 9_999 && day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        (day, month) = (day - days, month + 1);
    }
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", day + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::super::{AnswerReader, End, Fact, Framing, StreamReader};
    use super::*;

    const TEXT: &str = "We are \"down\".\nSorry.";

    fn all() -> Vec<Composed<'static>> {
        let of = |kind, path, sse| Composed { kind, path, sse, model: "m", text: TEXT, id: 7, created: 784_111_777 };
        vec![
            of(Kind::OpenAiChat, "/v1/chat/completions", false),
            of(Kind::OpenAiChat, "/v1/completions", false),
            of(Kind::OpenAiResponses, "/v1/responses", false),
            of(Kind::Anthropic, "/v1/messages", false),
            of(Kind::Gemini, "/v1beta/models/m:streamGenerateContent", true),
            of(Kind::Gemini, "/v1beta/models/m:streamGenerateContent", false),
            of(Kind::Cohere, "/v2/chat", false),
            of(Kind::Ollama, "/api/chat", false),
            of(Kind::Ollama, "/api/generate", false),
        ]
    }

    #[test]
    fn an_answer_reads_as_whole() {
        for composed in all() {
            let (content_type, answer) = composed.answer();
            assert_eq!(content_type, "application/json");
            assert!(answer.contains(&json!(TEXT).to_string()), "{composed:?}");
            let mut reader = AnswerReader::new();
            reader.read(answer.as_bytes());
            let answer = reader.end(&mut *composed.kind.dialect());
            assert_eq!((answer.end, answer.fault), (Some(End::Whole), None), "{composed:?}");
        }
    }

    #[test]
    fn a_stream_reads_as_whole_and_says_the_text() {
        for composed in all() {
            let (content_type, stream) = composed.stream();
            let framing = match content_type {
                EVENTS => Framing::EventStream,
                NDJSON => Framing::Lines,
                _ => Framing::Array,
            };
            let mut reader = StreamReader::new(Some(composed.kind), framing);
            let mut said = String::new();
            reader.read(stream.as_bytes(), |fact, _| {
                if let Fact::Delta { text, .. } = fact {
                    said += &text.decode();
                }
            });
            reader.end(|_, _| {});
            assert_eq!((reader.ended(), said.as_str()), (Some(End::Whole), TEXT), "{stream}");
        }
    }

    #[test]
    fn a_time_is_written_as_a_date() {
        assert_eq!(rfc3339(784_111_777), "1994-11-06T08:49:37Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
        rfc3339(u64::MAX);
    }
}
