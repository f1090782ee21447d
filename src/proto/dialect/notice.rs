//! Writes notices to the caller into a stream, in a form that the dialect's official clients ignore.

use bytes::Bytes;
use memchr::memmem;

use super::kind::Kind;
use super::stream_error::Quoted;
use crate::proto::json_object;
use crate::proto::sse::LineEnding;

/// Writes notices into one stream.
///
/// Each form was tested with the official clients in November 2026: before the first event, between events, and after the
/// last content. None of them raises an error or shows text because of it.
#[derive(Debug)]
pub(crate) struct NoticeWriter {
    form: NoticeForm,
    /// The members of a Chat stream's first chunk, as written.
    chunk: Option<Chunk>,
    /// The model in the first line of Ollama's, as written.
    model: Option<String>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoticeForm {
    /// An empty chunk of a chat completion.
    ChatChunk,
    /// Anthropic's `ping`.
    Ping,
    /// A chunk of Gemini's without candidates.
    Usage,
    /// A comment, with the same JSON.
    Comment,
    /// A line of Ollama's with an empty message.
    MessageLine,
    /// A line of Ollama's `/api/generate` with an empty text.
    ResponseLine,
}

#[derive(Debug)]
struct Chunk {
    id: String,
    model: String,
    created: String,
}

/// Longer values are replaced.
const MAX_VALUE: usize = 200;

// === impl NoticeWriter ===

impl NoticeWriter {
    /// Returns the writer for answers to a request with this path.
    pub(crate) fn of_path(path: &str) -> Self {
        let form = match Kind::of_path(path) {
            // Not the older text completions: their choices have other members.
            Some(Kind::OpenAiChat) if path.contains("/chat/") => NoticeForm::ChatChunk,
            Some(Kind::Anthropic) => NoticeForm::Ping,
            Some(Kind::Gemini) => NoticeForm::Usage,
            Some(Kind::Ollama) if path.trim_end_matches('/').ends_with("/generate") => NoticeForm::ResponseLine,
            Some(Kind::Ollama) => NoticeForm::MessageLine,
            _ => NoticeForm::Comment,
        };
        Self { form, chunk: None, model: None, is_over: false }
    }

    /// For an event stream, even under a path of Ollama's, which sends JSON lines.
    pub(crate) fn in_event_stream(mut self) -> Self {
        if self.form.is_line() {
            self.form = NoticeForm::Comment;
        }
        self
    }

    /// Reads data of the stream.
    pub(crate) fn read(&mut self, data: &[u8]) {
        self.is_over = self.is_over || self.form.may_end_in(data);
        if self.form == NoticeForm::ChatChunk && self.chunk.is_none() {
            self.chunk = Chunk::in_event(data);
        }
        if self.form.is_line() && self.model.is_none() {
            let found = json_object::members(data).find(|(key, _)| *key == b"model");
            self.model = found.and_then(|(_, value)| short_line(value)).map(str::to_owned);
        }
    }

    /// Returns the notice, unless the last event may have been sent. A comment is written without a blank line if the
    /// stream has set an `id`.
    pub(crate) fn write(&self, type_name: &str, message: &str, id_seen: bool, ending: LineEnding) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let end = ending.as_str();
        let model = self.model.as_deref().unwrap_or("\"\"");
        let notice = format!("{{\"type\":{},\"message\":{}}}", Quoted(type_name), Quoted(message));
        let text = match (self.form, &self.chunk) {
            (NoticeForm::ChatChunk, Some(Chunk { id, model, created })) => {
                format!("data: {}{end}{end}", chat_chunk(id, model, created, &notice))
            }
            (NoticeForm::ChatChunk, None) => {
                format!("data: {}{end}{end}", chat_chunk("\"chatcmpl-notice\"", "\"\"", "0", &notice))
            }
            (NoticeForm::Ping, _) => {
                format!("event: ping{end}data: {{\"type\":\"ping\",\"x_notice\":{notice}}}{end}{end}")
            }
            (NoticeForm::Usage, _) => format!("data: {{\"usageMetadata\":{{}},\"x_notice\":{notice}}}{end}{end}"),
            (NoticeForm::Comment, _) => format!(": notice {notice}{end}{}", if id_seen { "" } else { end }),
            (NoticeForm::MessageLine, _) => {
                let message = "{\"role\":\"assistant\",\"content\":\"\"}";
                format!("{{\"model\":{model},\"message\":{message},\"done\":false,\"x_notice\":{notice}}}\n")
            }
            (NoticeForm::ResponseLine, _) => {
                format!("{{\"model\":{model},\"response\":\"\",\"done\":false,\"x_notice\":{notice}}}\n")
            }
        };
        Some(text.into())
    }
}

fn chat_chunk(id: &str, model: &str, created: &str, notice: &str) -> String {
    format!(
        "{{\"id\":{id},\"object\":\"chat.completion.chunk\",\"created\":{created},\"model\":{model},\
         \"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":null}}],\"x_notice\":{notice}}}"
    )
}

// === impl NoticeForm ===

impl NoticeForm {
    fn is_line(self) -> bool {
        matches!(self, Self::MessageLine | Self::ResponseLine)
    }

    /// Whether `data` may contain the last event of a stream, or its finish reason. A text that looks like it is
    /// harmless: it only ends the notices early.
    fn may_end_in(self, data: &[u8]) -> bool {
        let ends: &[&[u8]] = match self {
            Self::ChatChunk => &[b"\"finish_reason\":\"", b"\"finish_reason\": \"", b"data: [DONE]"],
            Self::Ping => &[b"message_stop", b"\"stop_reason\":\"", b"\"stop_reason\": \""],
            Self::Usage => &[b"\"finishReason\""],
            Self::Comment => {
                &[b"response.completed", b"response.failed", b"response.incomplete", b"message-end", b"[DONE]"]
            }
            Self::MessageLine | Self::ResponseLine => {
                &[b"\"done\":true", b"\"done\": true", b"\"error\":\"", b"\"error\": \""]
            }
        };
        ends.iter().any(|end| memmem::find(data, end).is_some())
    }
}

// === impl Chunk ===

impl Chunk {
    /// From the first event of `data`, if it is complete.
    fn in_event(data: &[u8]) -> Option<Self> {
        let start = memmem::find(data, b"data:")? + b"data:".len();
        let (mut id, mut model, mut created) = (None, None, None);
        for (key, value) in json_object::members(&data[start..]) {
            let member = match key {
                b"id" => &mut id,
                b"model" => &mut model,
                b"created" => &mut created,
                _ => continue,
            };
            *member = short_line(value);
        }
        Some(Self { id: id?.to_owned(), model: model?.to_owned(), created: created?.to_owned() })
    }
}

/// A value that may be copied.
fn short_line(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|value| value.len() <= MAX_VALUE && !value.contains(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::sse::{Item, Parser};

    fn written(writer: &NoticeWriter) -> String {
        let bytes = writer.write("fallback", "a \"word\"\nof us", false, LineEnding::Lf).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn data(text: &str) -> Value {
        let (mut bytes, mut parser) = (text.as_bytes(), Parser::new());
        let Some(Item::Message(message)) = parser.next(&mut bytes) else { panic!("no event in {text:?}") };
        let value = serde_json::from_str(&message.data).unwrap();
        assert_eq!(parser.next(&mut bytes), None, "{text:?}");
        value
    }

    fn notice() -> Value {
        json!({"type": "fallback", "message": "a \"word\"\nof us"})
    }

    #[test]
    fn each_dialect_has_its_own_form() {
        let of = |path| written(&NoticeWriter::of_path(path));
        let chunk = json!({
            "id": "chatcmpl-notice", "object": "chat.completion.chunk", "created": 0, "model": "",
            "choices": [{"index": 0, "delta": {}, "finish_reason": null}], "x_notice": notice(),
        });
        assert_eq!(data(&of("/v1/chat/completions")), chunk);
        assert!(of("/v1/messages").starts_with("event: ping\n"));
        assert_eq!(data(&of("/v1/messages")), json!({"type": "ping", "x_notice": notice()}));
        let usage = json!({"usageMetadata": {}, "x_notice": notice()});
        assert_eq!(data(&of("/v1beta/models/g:streamGenerateContent")), usage);
        for path in ["/v1/responses", "/v1/completions", "/v2/chat", "/events"] {
            assert_eq!(of(path), format!(": notice {}\n\n", notice_as_written()), "{path}");
        }
    }

    fn notice_as_written() -> &'static str {
        r#"{"type":"fallback","message":"a \"word\"\nof us"}"#
    }

    #[test]
    fn a_chunk_is_like_the_first_one_of_its_stream() {
        let mut writer = NoticeWriter::of_path("/v1/chat/completions");
        writer.read(b": a comment\n\n");
        writer.read(br#"data: {"id":"c-1","object":"chat.completion.chunk","created":17,"model":"m","choices":[]}"#);
        writer.read(br#"data: {"id":"c-2","created":18,"model":"n","choices":[]}"#);
        let chunk = data(&written(&writer));
        assert_eq!((&chunk["id"], &chunk["created"], &chunk["model"]), (&json!("c-1"), &json!(17), &json!("m")));
    }

    #[test]
    fn there_is_none_behind_the_end_of_an_answer() {
        for (path, end) in [
            ("/v1/chat/completions", r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#),
            ("/v1/chat/completions", r#"data: {"choices":[{"finish_reason": "length"}]}"#),
            ("/v1/chat/completions", "data: [DONE]"),
            ("/v1/messages", r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#),
            ("/v1/messages", "event: message_stop\n"),
            ("/v1beta/models/g:streamGenerateContent", r#"data: {"candidates":[{"finishReason":"STOP"}]}"#),
            ("/v1/responses", "event: response.completed\n"),
            ("/v2/chat", "event: message-end\n"),
        ] {
            let mut writer = NoticeWriter::of_path(path);
            writer.read(br#"data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}],"stop_reason":null}"#);
            assert!(writer.write("retry", "a", false, LineEnding::Lf).is_some(), "{path}");
            writer.read(end.as_bytes());
            assert!(writer.write("retry", "a", false, LineEnding::Lf).is_none(), "{path}: {end}");
        }
    }

    #[test]
    fn ollamas_lines_have_notices_that_are_lines_of_the_same_model() {
        for (path, key, empty) in [
            ("/api/chat", "message", json!({"role": "assistant", "content": ""})),
            ("/api/generate", "response", json!("")),
        ] {
            let mut writer = NoticeWriter::of_path(path);
            let line = |writer: &NoticeWriter| -> Value {
                let line = written(writer);
                assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
                serde_json::from_str(&line).unwrap()
            };
            assert_eq!(line(&writer), json!({"model": "", key: empty, "done": false, "x_notice": notice()}));
            writer.read(br#"{"model":"llama \"3\"","done":false}"#);
            writer.read(br#"{"model":"other","done":false}"#);
            assert_eq!(line(&writer)["model"], "llama \"3\"");
            writer.read(br#"{"model":"m","done":true,"done_reason":"stop"}"#);
            assert!(writer.write("retry", "a", false, LineEnding::Lf).is_none());
            let events = NoticeWriter::of_path(path).in_event_stream();
            assert!(written(&events).starts_with(": notice {"), "another API under the same path");
        }
    }

    #[test]
    fn a_comment_behind_an_id_has_no_blank_line() {
        let comment = NoticeWriter::of_path("/v1/responses").write("retry", "a", true, LineEnding::CrLf).unwrap();
        assert_eq!(comment, ": notice {\"type\":\"retry\",\"message\":\"a\"}\r\n");
    }
}
