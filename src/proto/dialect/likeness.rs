//! Recognises the dialect of a stream by one of its first events.

use serde_json::{Map, Value};

use super::event::{StreamEvent, is_ping};
use super::fault::Fault;
use super::json;
use super::kind::Kind;
use super::members::{list, number, object, text};

/// What one event shows about the dialect of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// It is an event of this dialect.
    Of(Kind),
    /// It is JSON that no dialect of this crate writes.
    Foreign,
    /// It does not decide: an error, a ping, an event that its dialect may have added, a closing marker, or data that is
    /// not JSON.
    Unclear,
}

// === impl Kind ===

impl Kind {
    /// Returns the dialect of a stream, by one of its first events: `None` if that does not decide.
    #[must_use]
    pub fn of_event(event: &StreamEvent<'_>) -> Option<Self> {
        match Likeness::of(event, None) {
            Likeness::Of(kind) => Some(kind),
            Likeness::Foreign | Likeness::Unclear => None,
        }
    }

    /// The dialect that alone uses this event name, or this `type`.
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "message_start" | "content_block_start" | "content_block_delta" => Some(Self::Anthropic),
            "message-start" | "content-start" | "content-delta" => Some(Self::Cohere),
            name if name.starts_with("response.") => Some(Self::OpenAiResponses),
            _ => None,
        }
    }

    /// The dialect that alone has these members.
    fn of_members(data: &Map<String, Value>) -> Option<Self> {
        let has = |key: &str| data.contains_key(key);
        let object = text(data, "object").unwrap_or_default();
        if object.starts_with("chat.completion") || object == "text_completion" || list(data, "choices").is_some() {
            Some(Self::OpenAiChat)
        } else if list(data, "candidates").is_some() || has("usageMetadata") || has("promptFeedback") {
            Some(Self::Gemini)
        } else if data.get("done").is_some_and(Value::is_boolean) && has("model") {
            Some(Self::Ollama)
        } else {
            None
        }
    }

    /// Whether an event of this dialect may look like this.
    pub(super) fn writes(self, name: &str, data: &Map<String, Value>) -> bool {
        data.is_empty() || Self::of_members(data) == Some(self) || self.may_send(name, data)
    }

    /// Whether this dialect has such events, even if others do too.
    fn may_send(self, name: &str, data: &Map<String, Value>) -> bool {
        let has = |key: &str| data.contains_key(key);
        let name = text(data, "type").unwrap_or(name);
        match self {
            Self::OpenAiChat => has("choices") || object(data, "usage").is_some(),
            Self::OpenAiResponses => number(data, "sequence_number").is_some(),
            Self::Anthropic => matches!(name, "content_block_stop" | "message_delta" | "message_stop"),
            Self::Gemini => has("responseId") || has("modelVersion"),
            Self::Cohere => ["message-", "content-", "tool-", "citation-"].iter().any(|start| name.starts_with(start)),
            Self::Ollama => data.get("done").is_some_and(Value::is_boolean) || has("model") && has("message"),
        }
    }

    /// Whether this may be an unknown event of this dialect, or of one of its servers: such events also come before the
    /// first of the answer.
    fn may_add(self, name: &str, data: &Map<String, Value>) -> bool {
        let kind = text(data, "type");
        match self {
            // The documentation asks clients to ignore unknown events, which are named like the known ones.
            Self::Anthropic => kind.is_some_and(|kind| kind.contains('_') && !kind.contains('-')),
            Self::OpenAiResponses => {
                let name = kind.unwrap_or(name);
                name.starts_with("codex.") || name.starts_with("responsesapi.")
            }
            Self::OpenAiChat | Self::Gemini | Self::Cohere | Self::Ollama => false,
        }
    }
}

// === impl Likeness ===

impl Likeness {
    /// Judges an event. `expected`: the dialect by the path.
    pub(super) fn of(event: &StreamEvent<'_>, expected: Option<Kind>) -> Self {
        if let Some(kind) = Kind::of_name(event.name) {
            return Self::Of(kind);
        }
        let data = match json::parse(event.data) {
            Some(Value::Object(data)) => data,
            Some(_) if !is_error_or_ping(event.name) => return Self::Foreign,
            _ => return Self::Unclear,
        };
        let own = || expected.filter(|kind| kind.may_send(event.name, &data));
        match Kind::of_name(text(&data, "type").unwrap_or_default()).or_else(|| Kind::of_members(&data)).or_else(own) {
            Some(kind) => Self::Of(kind),
            None if is_in_any(event.name, &data) => Self::Unclear,
            None if expected.is_some_and(|kind| kind.may_add(event.name, &data)) => Self::Unclear,
            None => Self::Foreign,
        }
    }
}

/// Whether a stream of any dialect may have this event.
fn is_in_any(name: &str, data: &Map<String, Value>) -> bool {
    let names = [Some(name), text(data, "type"), text(data, "object")];
    let named = names.into_iter().flatten().any(is_error_or_ping);
    named || data.is_empty() || Fault::inside(data).is_some() || is_bare_error(data)
}

/// Whether it is an error without an object around it: a message for people, and a sign of failure.
fn is_bare_error(data: &Map<String, Value>) -> bool {
    let Some(fault) = Fault::of_object(data).filter(|fault| !fault.message().is_empty()) else { return false };
    // `"code": "0"` and `"code": "Success"` occur in the envelopes of complete answers.
    let is_code = |code: &str| {
        !code.is_empty()
            && code.parse::<f64>().is_err()
            && !["ok", "success"].iter().any(|good| code.eq_ignore_ascii_case(good))
    };
    fault.status().is_some()
        || text(data, "code").is_some_and(is_code)
        || matches!(text(data, "status"), Some("error" | "fail" | "failed"))
        || data.get("success") == Some(&Value::Bool(false))
        || data.len() == 1 && data.contains_key("detail")
}

fn is_error_or_ping(name: &str) -> bool {
    name == "error" || is_ping(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, data: &str, expected: Option<Kind>) -> Likeness {
        Likeness::of(&StreamEvent::new(name, data.as_bytes()), expected)
    }

    #[test]
    fn an_event_of_a_dialect_is_known_when_another_was_expected() {
        use Kind::{Anthropic, Cohere, Gemini, Ollama, OpenAiChat, OpenAiResponses};
        for (name, data, kind) in [
            ("", r#"{"object":"chat.completion.chunk"}"#, OpenAiChat),
            ("", r#"{"object":"text_completion"}"#, OpenAiChat),
            ("", r#"{"choices":[]}"#, OpenAiChat),
            ("", r#"{"type":"response.created"}"#, OpenAiResponses),
            ("response.created", "{}", OpenAiResponses),
            ("", r#"{"type":"message_start"}"#, Anthropic),
            ("content_block_delta", "cut", Anthropic),
            ("", r#"{"type":"message-start"}"#, Cohere),
            ("content-delta", "{}", Cohere),
            ("", r#"{"candidates":[]}"#, Gemini),
            ("", r#"{"usageMetadata":{}}"#, Gemini),
            ("", r#"{"promptFeedback":{}}"#, Gemini),
            ("", r#"{"model":"m","done":false}"#, Ollama),
        ] {
            for expected in [None, Some(OpenAiChat), Some(Anthropic)] {
                assert_eq!(of(name, data, expected), Likeness::Of(kind), "{name} {data}, expected {expected:?}");
            }
            assert_eq!(Kind::of_event(&StreamEvent::new(name, data.as_bytes())), Some(kind), "{name} {data}");
        }
    }

    #[test]
    fn what_only_an_expected_dialect_explains_is_foreign_without_it() {
        use Kind::{Anthropic, Cohere, Gemini, Ollama, OpenAiChat, OpenAiResponses};
        for (name, data, kind) in [
            ("", r#"{"usage":{"total_tokens":3}}"#, OpenAiChat),
            ("", r#"{"choices":null}"#, OpenAiChat),
            ("codex.limits", r#"{"sequence_number":4}"#, OpenAiResponses),
            ("content_block_stop", r#"{"index":0}"#, Anthropic),
            ("", r#"{"type":"message_delta"}"#, Anthropic),
            ("", r#"{"type":"message_stop"}"#, Anthropic),
            ("", r#"{"responseId":"r"}"#, Gemini),
            ("", r#"{"modelVersion":"m"}"#, Gemini),
            ("message-end", r#"{"delta":{}}"#, Cohere),
            ("", r#"{"type":"tool-plan-delta"}"#, Cohere),
            ("", r#"{"type":"citation-start"}"#, Cohere),
            ("", r#"{"type":"content-end"}"#, Cohere),
            ("", r#"{"done":false}"#, Ollama),
            ("", r#"{"model":"m","message":{}}"#, Ollama),
        ] {
            assert_eq!(of(name, data, Some(kind)), Likeness::Of(kind), "{name} {data}");
            for other in [None, Some(OpenAiChat), Some(OpenAiResponses), Some(Gemini)] {
                if other != Some(kind) {
                    assert_eq!(of(name, data, other), Likeness::Foreign, "{name} {data}, expected {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_no_dialect_writes_is_foreign_and_what_any_may_write_is_unclear() {
        let kinds =
            [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic, Kind::Gemini, Kind::Cohere, Kind::Ollama];
        for expected in kinds.into_iter().map(Some).chain([None]) {
            for (name, data) in [
                ("", r#"{"content":"Hi","stop":false,"tokens_predicted":1}"#),
                ("", r#"{"type":"text-delta","id":"0","delta":"Hi"}"#),
                ("", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
                ("", r#"{"model":"m"}"#),
                ("", r#"{"error":null,"token":"Hi"}"#),
                ("", r#"{"message":"Hi"}"#),
                ("", r#"{"message":"Hi","status":"streaming"}"#),
                ("", r#"{"message":"","code":"x"}"#),
                ("", r#"{"code":200,"message":"Hi"}"#),
                ("", r#"{"code":"0","message":"Hi"}"#),
                ("", r#"{"code":"Success","message":"Hi","success":true}"#),
                ("", r#"{"detail":"Hi","token":1}"#),
                ("", r#""Hi""#),
                ("token", r#""Hi""#),
                ("", "[1]"),
                ("", "7"),
            ] {
                assert_eq!(of(name, data, expected), Likeness::Foreign, "{data}, expected {expected:?}");
            }
            for (name, data) in [
                ("", "[DONE]"),
                ("", "<html>"),
                ("", ""),
                ("", "{}"),
                ("error", "\"gone\""),
                ("error", r#"{"code":500}"#),
                ("ping", r#"{"time":1}"#),
                ("heartbeat", "1764201600"),
                ("", r#"{"type":"ping"}"#),
                ("", r#"{"type":"error"}"#),
                ("", r#"{"object":"error","message":"x"}"#),
                ("", r#"{"error":{"message":"x"}}"#),
                ("", r#"{"error":"x"}"#),
                ("", r#"{"code":"InternalError","message":"An internal error","request_id":"x"}"#),
                ("", r#"{"detail":"gone"}"#),
                ("", r#"{"code":500,"msg":"gone","success":false}"#),
                ("", r#"{"msg":"gone","success":false}"#),
                ("", r#"{"message":"gone","type":"rate_limit","code":429}"#),
                ("", r#"{"status":"error","message":"gone"}"#),
            ] {
                assert_eq!(of(name, data, expected), Likeness::Unclear, "{name} {data}, expected {expected:?}");
            }
        }
    }

    #[test]
    fn an_event_that_its_dialect_may_have_added_is_unclear_where_that_is_expected() {
        use Kind::{Anthropic, OpenAiChat, OpenAiResponses};
        for (name, data, kind) in [
            ("", r#"{"type":"some_new_event"}"#, Anthropic),
            ("codex.rate_limits", r#"{"plan":"x"}"#, OpenAiResponses),
            ("", r#"{"type":"codex.rate_limits"}"#, OpenAiResponses),
            ("", r#"{"type":"responsesapi.websocket_timing"}"#, OpenAiResponses),
        ] {
            assert_eq!(of(name, data, Some(kind)), Likeness::Unclear, "{name} {data}");
            for other in [None, Some(OpenAiChat)] {
                assert_eq!(of(name, data, other), Likeness::Foreign, "{name} {data}, expected {other:?}");
            }
        }
    }
}
