//! The place of the text in a JSON answer, and the request that asks for a better answer.

use serde_json::{Value, json};

use super::dialect::Kind;
use super::json_object::{elements, members};

/// The content of an answer's only choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerText<'a> {
    /// One text, as written between its quotes, and the bytes around it.
    One { before: &'a [u8], raw: &'a [u8], after: &'a [u8] },
    /// No text at all.
    Empty,
    /// Other content: a refusal, a tool call, several texts or several choices.
    Other,
}

// === impl AnswerText ===

impl<'a> AnswerText<'a> {
    pub(crate) fn of(kind: Kind, body: &'a [u8]) -> Self {
        match find(kind, body) {
            Some(Some(raw)) => Self::at(body, raw).unwrap_or(Self::Other),
            Some(None) => Self::Empty,
            None => Self::Other,
        }
    }

    fn at(body: &'a [u8], value: &'a [u8]) -> Option<Self> {
        let raw = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let start = raw.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
        let (before, rest) = body.split_at_checked(start)?;
        let (raw, after) = rest.split_at_checked(raw.len())?;
        Some(if raw.trim_ascii().is_empty() { Self::Empty } else { Self::One { before, raw, after } })
    }
}

/// Decodes the content of a JSON string.
pub(crate) fn unquoted(raw: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", raw, b"\""].concat()).ok()
}

/// Returns `before` and `after` with this text between them, as JSON.
pub(crate) fn replaced(before: &[u8], text: &str, after: &[u8]) -> Vec<u8> {
    let quoted = Value::from(text).to_string();
    let inside = quoted.as_bytes().get(1..quoted.len() - 1).unwrap_or_default();
    [before, inside, after].concat()
}

/// The text's place: `Some(None)` if there is no text, `None` if there is other content.
fn find(kind: Kind, body: &[u8]) -> Option<Option<&[u8]>> {
    match kind {
        Kind::OpenAiChat => {
            let choice = only(member(body, b"choices")?)?;
            let Some(message) = member(choice, b"message") else { return text(member(choice, b"text")?) };
            let is_free =
                ["tool_calls", "function_call", "refusal", "audio"].iter().all(|name| is_absent(message, name));
            let content = is_free.then(|| member(message, b"content"))?;
            if content.is_some_and(|content| content.starts_with(b"[")) {
                parts(content?, &[b"thinking"])
            } else {
                text(content?)
            }
        }
        Kind::Anthropic => parts(member(body, b"content")?, &[b"thinking", b"redacted_thinking"]),
        Kind::Cohere => {
            let message = member(body, b"message")?;
            let content = is_absent(message, "tool_calls").then(|| member(message, b"content"))?;
            content.map_or(Some(None), |content| parts(content, &[b"thinking"]))
        }
        Kind::OpenAiResponses => {
            let mut found = None;
            for item in elements(member(body, b"output")?) {
                match quoted(member(item, b"type")?)? {
                    b"reasoning" => {}
                    b"message" if found.is_none() => found = Some(member(item, b"content")?),
                    _ => return None,
                }
            }
            found.map_or(Some(None), |content| parts(content, &[]))
        }
        Kind::Gemini => {
            let candidate = only(member(body, b"candidates")?)?;
            let Some(parts) = member(candidate, b"content").and_then(|content| member(content, b"parts")) else {
                return Some(None);
            };
            let mut found = None;
            for part in elements(parts) {
                let is_thought = member(part, b"thought") == Some(b"true");
                match member(part, b"text") {
                    Some(_) if is_thought => {}
                    Some(value) if found.is_none() => found = Some(value),
                    _ => return None,
                }
            }
            Some(found)
        }
        Kind::Ollama => match member(body, b"message") {
            Some(message) => {
                let content = is_absent(message, "tool_calls").then(|| member(message, b"content"))?;
                text(content?)
            }
            None => text(member(body, b"response")?),
        },
    }
}

/// The only text of a list of parts, ignoring parts of these types.
fn parts<'a>(list: &'a [u8], others: &[&[u8]]) -> Option<Option<&'a [u8]>> {
    let mut found = None;
    for part in elements(list) {
        match quoted(member(part, b"type")?)? {
            b"text" | b"output_text" if found.is_none() => found = Some(member(part, b"text")?),
            other if others.contains(&other) => {}
            _ => return None,
        }
    }
    Some(found)
}

fn text(value: &[u8]) -> Option<Option<&[u8]>> {
    match value {
        b"null" => Some(None),
        [b'"', ..] => Some(Some(value)),
        _ => None,
    }
}

fn quoted(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

fn only(list: &[u8]) -> Option<&[u8]> {
    let mut items = elements(list);
    items.next().filter(|_| items.next().is_none())
}

fn is_absent(object: &[u8], name: &str) -> bool {
    member(object, name.as_bytes()).is_none_or(|value| matches!(value, b"null" | b"[]" | b"\"\""))
}

fn member<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    members(object).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Builds the request again, followed by its answer and the complaint. `None` if its dialect has no place for them.
pub(crate) fn ask_again(kind: Kind, body: &[u8], answer: &str, complaint: &str) -> Option<Vec<u8>> {
    let said = !answer.trim().is_empty();
    let message = |role: &str, text: &str| json!({ "role": role, "content": text });
    let (list, turns) = match kind {
        Kind::OpenAiChat | Kind::Anthropic | Kind::Cohere | Kind::Ollama => {
            let list = member(body, b"messages")?;
            (list, (message("assistant", answer), message("user", complaint)))
        }
        Kind::OpenAiResponses => (member(body, b"input")?, (message("assistant", answer), message("user", complaint))),
        Kind::Gemini => {
            let content = |role: &str, text: &str| json!({ "role": role, "parts": [{ "text": text }] });
            (member(body, b"contents")?, (content("model", answer), content("user", complaint)))
        }
    };
    let start = list.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    let (before, rest) = body.split_at_checked(start)?;
    let (list, after) = rest.split_at_checked(list.len())?;
    let turns = if said { format!("{},{}", turns.0, turns.1) } else { turns.1.to_string() };
    let list = match list {
        // Responses accepts a bare text.
        [b'"', ..] => [b"[{\"role\":\"user\",\"content\":", list, b"},", turns.as_bytes(), b"]"].concat(),
        [b'[', .., b']'] => {
            let open = list.get(..list.len() - 1)?;
            let comma: &[u8] = if open.trim_ascii_end() == b"[" { b"" } else { b"," };
            [open, comma, turns.as_bytes(), b"]"].concat()
        }
        _ => return None,
    };
    Some([before, &list, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, body: &str) -> Option<String> {
        match AnswerText::of(kind, body.as_bytes()) {
            AnswerText::One { before, raw, after } => {
                assert_eq!([before, raw, after].concat(), body.as_bytes());
                let text = unquoted(raw).unwrap();
                // What is put in its place is read again.
                let other = replaced(before, "a \"new\"\n{}", after);
                let AnswerText::One { raw, .. } = AnswerText::of(kind, &other) else { panic!("{other:?}") };
                assert_eq!(unquoted(raw).unwrap(), "a \"new\"\n{}");
                Some(text)
            }
            AnswerText::Empty => Some(String::new()),
            AnswerText::Other => None,
        }
    }

    #[test]
    fn each_dialect_has_its_text() {
        for (kind, body) in [
            (
                Kind::OpenAiChat,
                r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"{\"a\":1}","tool_calls":[],"refusal":null},"finish_reason":"stop"}]}"#,
            ),
            (
                Kind::OpenAiChat,
                r#"{"choices":[{"message":{"content":[{"type":"thinking"},{"type":"text","text":"{\"a\":1}"}]}}]}"#,
            ),
            (Kind::OpenAiChat, r#"{"choices":[{"text":"{\"a\":1}"}]}"#),
            (
                Kind::OpenAiResponses,
                r#"{"output":[{"type":"reasoning"},{"type":"message","content":[{"type":"output_text","text":"{\"a\":1}"}]}]}"#,
            ),
            (Kind::Anthropic, r#"{"content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"{\"a\":1}"}]}"#),
            (
                Kind::Gemini,
                r#"{"candidates":[{"content":{"parts":[{"text":"x","thought":true},{"text":"{\"a\":1}"}]}}]}"#,
            ),
            (Kind::Cohere, r#"{"message":{"content":[{"type":"text","text":"{\"a\":1}"}]}}"#),
            (Kind::Ollama, r#"{"message":{"content":"{\"a\":1}"},"done":true}"#),
            (Kind::Ollama, r#"{"response":"{\"a\":1}","done":true}"#),
        ] {
            assert_eq!(said(kind, body).as_deref(), Some("{\"a\":1}"), "{body}");
        }
    }

    #[test]
    fn an_empty_answer_differs_from_one_that_is_no_text() {
        for empty in [r#"{"choices":[{"message":{"content":null}}]}"#, r#"{"choices":[{"message":{"content":""}}]}"#] {
            assert_eq!(said(Kind::OpenAiChat, empty).as_deref(), Some(""), "{empty}");
        }
        assert_eq!(said(Kind::Gemini, r#"{"candidates":[{"finishReason":"STOP"}]}"#).as_deref(), Some(""));
        for other in [
            r#"{"choices":[{"message":{"content":"a","refusal":"no"}}]}"#,
            r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"1"}]}}]}"#,
            r#"{"choices":[{"message":{"content":"a"}},{"message":{"content":"b"}}]}"#,
            r#"{"error":{}}"#,
            "no",
        ] {
            assert_eq!(said(Kind::OpenAiChat, other), None, "{other}");
        }
        let tool = r#"{"content":[{"type":"text","text":"a"},{"type":"tool_use"}]}"#;
        assert_eq!(said(Kind::Anthropic, tool), None);
        let refusal = r#"{"output":[{"type":"message","content":[{"type":"refusal","refusal":"no"}]}]}"#;
        assert_eq!(said(Kind::OpenAiResponses, refusal), None);
    }

    #[test]
    fn a_request_is_asked_again_behind_its_answer() {
        let again = |kind, body: &str, answer| {
            let body = ask_again(kind, body.as_bytes(), answer, "wrong")?;
            serde_json::from_slice::<Value>(&body).ok()
        };
        let chat = again(
            Kind::OpenAiChat,
            r#"{"seed":18446744073709551617,"messages":[{"role":"user","content":"q"}],"n":1}"#,
            "a\"",
        );
        assert_eq!(
            chat.unwrap()["messages"],
            json!([
                { "role": "user", "content": "q" }, { "role": "assistant", "content": "a\"" }, { "role": "user", "content": "wrong" },
            ])
        );
        let responses = again(Kind::OpenAiResponses, r#"{"input":"q"}"#, "a").unwrap();
        assert_eq!(responses["input"][0], json!({ "role": "user", "content": "q" }));
        assert_eq!(responses["input"].as_array().unwrap().len(), 3);
        let gemini = again(Kind::Gemini, r#"{"contents":[{"parts":[{"text":"q"}]}]}"#, "a").unwrap();
        assert_eq!(gemini["contents"][1], json!({ "role": "model", "parts": [{ "text": "a" }] }));
        let empty = again(Kind::Anthropic, r#"{"messages":[{"role":"user","content":"q"}]}"#, " ").unwrap();
        assert_eq!(empty["messages"].as_array().unwrap().len(), 2, "an empty turn is none");
        assert_eq!(again(Kind::OpenAiChat, r#"{"prompt":"q"}"#, "a"), None);
        let raw = ask_again(Kind::OpenAiChat, br#"{"seed":18446744073709551617,"messages":[]}"#, "a", "b").unwrap();
        assert!(raw.starts_with(br#"{"seed":18446744073709551617,"messages":[{"#), "all else stays as it was spelled");
    }
}
