//! The event that reports to a dialect's client that its stream failed.

use std::borrow::Cow;
use std::fmt::{self, Write};

use super::kind::Kind;
use crate::proto::sse::LineEnding;

/// An error inside a stream, in the form that a dialect's official clients raise.
///
/// No form works for all: most clients silently ignore the other dialects' forms. Each form below was tested with the
/// official clients in November 2026.
///
/// | Dialect | Event |
/// |---|---|
/// | Chat, and unknown dialects | `event: error`, `data: {"type":"error","error":{..}}` |
/// | Responses | the same, and `code`, `message`, `param`, `sequence_number` beside `error` |
/// | Anthropic | `event: error`, `data: {"type":"error","error":{"type":..,"message":..}}` |
/// | Gemini | `data: {"error":{"code":..,"message":..,"status":..}}`, without an `event` line |
/// | Cohere | `event: message-end`, with `finish_reason` `ERROR` |
/// | Ollama | one line `{"error":".."}` |
///
/// Write it at the start of a line after a complete event, then fail the body. Write nothing after it: some clients take
/// a following `[DONE]` or an end without an error for success.
///
/// ```
/// use tower_buttress::proto::dialect::{Kind, StreamError};
/// use tower_buttress::proto::sse::LineEnding;
///
/// let error = StreamError::of_status(504).message("The upstream sent nothing for 30 s.");
/// assert_eq!(
///     error.frame(Some(Kind::Anthropic), LineEnding::Lf),
///     "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"code\":null,\
///      \"message\":\"The upstream sent nothing for 30 s.\"}}\n\n",
/// );
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "it is only a description until its frame is written"]
pub struct StreamError<'a> {
    status: u16,
    type_name: Cow<'a, str>,
    code: Option<Cow<'a, str>>,
    message: Cow<'a, str>,
    sequence: u64,
}

/// A string as JSON writes it, with its quotes.
pub(super) struct Quoted<'a>(pub(super) &'a str);

/// A string, or `null`.
struct QuotedOrNull<'a>(Option<&'a str>);

// === impl StreamError ===

impl<'a> StreamError<'a> {
    /// Returns an error that would have had this status before the head was sent. Its type is Anthropic's name for the
    /// status (`overloaded_error`, `timeout_error`, .., else `api_error`); OpenAI's clients show any type.
    pub const fn of_status(status: u16) -> Self {
        Self {
            status,
            type_name: Cow::Borrowed(type_of_status(status)),
            code: None,
            message: Cow::Borrowed("The upstream failed in the middle of the stream."),
            sequence: 0,
        }
    }

    /// Sets the error's type, if the upstream gave one.
    pub fn type_name(mut self, type_name: impl Into<Cow<'a, str>>) -> Self {
        self.type_name = type_name.into();
        self
    }

    /// Sets the error's code: `"stream_truncated"`. Default: `null`.
    pub fn code(mut self, code: impl Into<Cow<'a, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Sets the message for people.
    pub fn message(mut self, message: impl Into<Cow<'a, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// Sets the event's `sequence_number` in Responses: the last one of the stream, plus one. Default: 0.
    pub const fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    /// Returns the event for a dialect (`None`: unknown), with the line ending of the stream.
    #[must_use]
    pub fn frame(&self, kind: Option<Kind>, ending: LineEnding) -> String {
        let end = ending.as_str();
        match kind {
            Some(Kind::Gemini) => format!("data: {}{end}{end}", self.gemini()),
            Some(Kind::Ollama) => format!("{{\"error\":{}}}\n", Quoted(&self.message)),
            Some(Kind::Cohere) => format!(
                "event: message-end{end}data: {{\"type\":\"message-end\",\"delta\":{{\"finish_reason\":\"ERROR\",\
                 \"error\":{}}}}}{end}{end}",
                Quoted(&self.message)
            ),
            Some(Kind::OpenAiResponses) => format!(
                "event: error{end}data: {{\"type\":\"error\",\"sequence_number\":{},\"code\":{},\"message\":{},\
                 \"param\":null,\"error\":{}}}{end}{end}",
                self.sequence,
                QuotedOrNull(self.code.as_deref()),
                Quoted(&self.message),
                self.object(",\"param\":null"),
            ),
            Some(Kind::Anthropic) => self.event_error(end, ""),
            Some(Kind::OpenAiChat) | None => self.event_error(end, ",\"param\":null"),
        }
    }

    /// The same as a JSON body, for an answer with an error status.
    #[must_use]
    pub fn body(&self, kind: Option<Kind>) -> String {
        match kind {
            Some(Kind::Gemini) => self.gemini(),
            Some(Kind::Ollama) => format!("{{\"error\":{}}}", Quoted(&self.message)),
            Some(Kind::Cohere) => format!("{{\"message\":{}}}", Quoted(&self.message)),
            Some(Kind::Anthropic) => format!("{{\"type\":\"error\",\"error\":{}}}", self.object("")),
            Some(Kind::OpenAiChat | Kind::OpenAiResponses) | None => {
                format!("{{\"error\":{}}}", self.object(",\"param\":null"))
            }
        }
    }

    fn event_error(&self, end: &str, more: &str) -> String {
        format!("event: error{end}data: {{\"type\":\"error\",\"error\":{}}}{end}{end}", self.object(more))
    }

    fn object(&self, more: &str) -> String {
        format!(
            "{{\"type\":{},\"code\":{},\"message\":{}{more}}}",
            Quoted(&self.type_name),
            QuotedOrNull(self.code.as_deref()),
            Quoted(&self.message)
        )
    }

    /// The first key must be `error`: the Python client checks only that.
    fn gemini(&self) -> String {
        format!(
            "{{\"error\":{{\"code\":{},\"message\":{},\"status\":\"{}\"}}}}",
            self.status,
            Quoted(&self.message),
            google_status(self.status)
        )
    }
}

/// Without the message, which may echo parts of the request.
impl fmt::Debug for StreamError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamError")
            .field("status", &self.status)
            .field("type_name", &self.type_name)
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

/// <https://docs.anthropic.com/en/api/errors>
const fn type_of_status(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        504 => "timeout_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

/// <https://cloud.google.com/apis/design/errors#handling_errors>
const fn google_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 | 410 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        400..=499 => "INVALID_ARGUMENT",
        501 => "UNIMPLEMENTED",
        502 | 503 | 529 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

// === impl Quoted ===

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for QuotedOrNull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => Quoted(text).fmt(f),
            None => f.write_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::sse::{Item, Parser};

    const KINDS: [Option<Kind>; 7] = [
        None,
        Some(Kind::OpenAiChat),
        Some(Kind::OpenAiResponses),
        Some(Kind::Anthropic),
        Some(Kind::Gemini),
        Some(Kind::Cohere),
        Some(Kind::Ollama),
    ];

    fn error() -> StreamError<'static> {
        StreamError::of_status(502).code("stream_truncated").message("cut").sequence(7)
    }

    /// The type of the only event, and its data.
    fn event(frame: &str) -> (String, Value) {
        let mut bytes = frame.as_bytes();
        let mut parser = Parser::new();
        let Some(Item::Message(message)) = parser.next(&mut bytes) else { panic!("no event in {frame:?}") };
        let event = (message.event_type.into_owned(), serde_json::from_str(&message.data).unwrap());
        assert_eq!(parser.next(&mut bytes), None, "{frame:?}");
        event
    }

    #[test]
    fn each_dialect_has_its_own_form() {
        let frame = |kind| event(&error().frame(Some(kind), LineEnding::CrLf));
        let object = json!({"type": "api_error", "code": "stream_truncated", "message": "cut", "param": null});
        assert_eq!(frame(Kind::OpenAiChat), ("error".to_owned(), json!({"type": "error", "error": object})));
        assert_eq!(event(&error().frame(None, LineEnding::Lf)), frame(Kind::OpenAiChat));
        let responses = json!({
            "type": "error", "sequence_number": 7, "code": "stream_truncated", "message": "cut", "param": null,
            "error": object,
        });
        assert_eq!(frame(Kind::OpenAiResponses), ("error".to_owned(), responses));
        let object = json!({"type": "api_error", "code": "stream_truncated", "message": "cut"});
        assert_eq!(frame(Kind::Anthropic), ("error".to_owned(), json!({"type": "error", "error": object})));
        let gemini = json!({"error": {"code": 502, "message": "cut", "status": "UNAVAILABLE"}});
        assert_eq!(frame(Kind::Gemini), ("message".to_owned(), gemini));
        let cohere = json!({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "cut"}});
        assert_eq!(frame(Kind::Cohere), ("message-end".to_owned(), cohere));
        assert_eq!(error().frame(Some(Kind::Ollama), LineEnding::Lf), "{\"error\":\"cut\"}\n");
    }

    #[test]
    fn gemini_has_error_as_its_first_key() {
        assert!(error().frame(Some(Kind::Gemini), LineEnding::Lf).starts_with("data: {\"error\":"));
    }

    #[test]
    fn any_message_makes_one_event() {
        let message = "a \"quote\", a \\, \r\n\n data: {}\0 \u{1f} \u{2028} ü";
        for kind in KINDS {
            let frame = error().message(message).type_name("a\"b").code("c\nd").frame(kind, LineEnding::Lf);
            let data = match kind {
                Some(Kind::Ollama) => serde_json::from_str(frame.trim_end_matches('\n')).unwrap(),
                _ => event(&frame).1,
            };
            assert!(data.to_string().contains(&json!(message).to_string()), "{data}");
        }
    }

    #[test]
    fn each_dialect_has_its_own_body() {
        for kind in KINDS {
            let body: Value = serde_json::from_str(&error().body(kind)).unwrap();
            let message = match kind {
                Some(Kind::Ollama) => &body["error"],
                Some(Kind::Cohere) => &body["message"],
                _ => &body["error"]["message"],
            };
            assert_eq!(message, "cut", "{kind:?}");
        }
    }

    #[test]
    fn its_message_is_not_in_its_debug_output() {
        assert!(!format!("{:?}", error().message("a prompt")).contains("prompt"));
    }

    #[test]
    fn each_status_has_the_names_of_its_provider() {
        for (status, anthropic, google) in [
            (400, "invalid_request_error", "INVALID_ARGUMENT"),
            (401, "authentication_error", "UNAUTHENTICATED"),
            (402, "billing_error", "INVALID_ARGUMENT"),
            (403, "permission_error", "PERMISSION_DENIED"),
            (404, "not_found_error", "NOT_FOUND"),
            (409, "invalid_request_error", "ABORTED"),
            (410, "invalid_request_error", "ABORTED"),
            (413, "request_too_large", "INVALID_ARGUMENT"),
            (429, "rate_limit_error", "RESOURCE_EXHAUSTED"),
            (499, "invalid_request_error", "INVALID_ARGUMENT"),
            (500, "api_error", "INTERNAL"),
            (501, "api_error", "UNIMPLEMENTED"),
            (502, "api_error", "UNAVAILABLE"),
            (503, "overloaded_error", "UNAVAILABLE"),
            (504, "timeout_error", "DEADLINE_EXCEEDED"),
            (529, "overloaded_error", "UNAVAILABLE"),
            (599, "api_error", "INTERNAL"),
        ] {
            assert_eq!((type_of_status(status), google_status(status)), (anthropic, google), "{status}");
        }
    }

    #[test]
    fn debug_shows_no_message() {
        let error = StreamError::of_status(503).message("secret").code("c").type_name("t");
        let shown = format!("{error:?}");
        assert!(shown.contains("503") && shown.contains("\"c\"") && shown.contains("\"t\""), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
