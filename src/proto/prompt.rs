//! Reads generation requests, for the layers that store or continue their answers.

use serde_json::value::RawValue;

use super::dialect::Kind;
use super::json_object::{elements, members};

/// A request's body, split around the text of its last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastMessage<'a> {
    pub(crate) before: &'a [u8],
    /// As written between its quotes.
    raw: &'a [u8],
    pub(crate) after: &'a [u8],
}

/// Members with which a request uses or leaves state at the server.
const STATE: [&[u8]; 9] = [
    b"previous_response_id",
    b"previous_interaction_id",
    b"conversation",
    b"conversation_id",
    b"thread_id",
    b"session_id",
    b"container",
    b"background",
    b"store",
];

/// Whether the request uses state at the server, or leaves state for a later request. If unclear, it does.
pub(crate) fn has_server_state(kind: Kind, body: &[u8]) -> bool {
    // A server may still read a malformed object: after a byte order mark, or with an extra comma.
    let is_object = body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<&RawValue>(body).is_ok();
    if !is_object {
        return true;
    }
    let mut store = None;
    for (key, value) in members(body) {
        if has_escapes(key) {
            return true;
        }
        match (key, value) {
            // The server may use either of two.
            (b"store", _) if store.is_some_and(|before| before != value) => return true,
            (b"store", b"false" | b"null") => store = Some(value),
            (key, value) if STATE.contains(&key) && !matches!(value, b"null" | b"false") => return true,
            _ => {}
        }
    }
    // Responses are stored unless the request forbids it.
    kind == Kind::OpenAiResponses && store != Some(b"false")
}

/// Whether the request asks for a stream.
pub(crate) fn asks_for_stream(kind: Kind, path: &str, body: &[u8]) -> bool {
    let said = members(body).find(|(key, _)| *key == b"stream").map(|(_, value)| value);
    match kind {
        Kind::Gemini => path.trim_end_matches('/').ends_with(":streamGenerateContent"),
        Kind::Ollama => said != Some(b"false"),
        _ => said == Some(b"true"),
    }
}

/// Whether the request asks for more than one answer.
pub(crate) fn asks_for_several(body: &[u8]) -> bool {
    let is_more = |value: &[u8]| serde_json::from_slice::<u64>(value).is_ok_and(|count| count > 1);
    members(body).any(|(key, value)| match key {
        b"n" | b"num_generations" => is_more(value),
        b"generationConfig" | b"generation_config" => {
            members(value).any(|(key, value)| matches!(key, b"candidateCount" | b"candidate_count") && is_more(value))
        }
        _ => false,
    })
}

/// The token limit of the answer, if the request sets it in a way that all servers read alike.
pub(crate) fn output_limit(body: &[u8]) -> Option<u64> {
    const NAMES: [&[u8]; 3] = [b"max_tokens", b"max_completion_tokens", b"max_output_tokens"];
    let limits = |object, names: &'static [&[u8]]| {
        members(object).filter(move |(key, _)| names.contains(key)).map(|(_, value)| value)
    };
    // An escaped name may be one of the limits, and each of several answers has the full limit.
    if members(body).any(|(key, _)| has_escapes(key)) || asks_for_several(body) {
        return None;
    }
    let within = members(body).filter_map(|(key, value)| match key {
        b"generationConfig" | b"generation_config" => Some(limits(value, &[b"maxOutputTokens", b"max_output_tokens"])),
        b"options" => Some(limits(value, &[b"num_predict"])),
        _ => None,
    });
    let all = limits(body, &NAMES).chain(within.flatten()).filter(|value| *value != b"null");
    // The server may use either of two.
    all.map(|value| serde_json::from_slice(value).unwrap_or(u64::MAX)).max().filter(|limit| *limit < u64::MAX)
}

/// The model that the request names.
pub(crate) fn model(kind: Kind, path: &str, body: &[u8]) -> Option<String> {
    if kind == Kind::Gemini {
        let (_, name) = path.trim_end_matches('/').rsplit_once('/')?;
        return name.rsplit_once(':').map(|(name, _)| name.to_owned());
    }
    serde_json::from_slice(member(body, b"model")?).ok()
}

// === impl LastMessage ===

impl<'a> LastMessage<'a> {
    /// Returns the last message of this body, if it is the user's, and a single text.
    pub(crate) fn of(kind: Kind, body: &'a [u8]) -> Option<Self> {
        let value = match kind {
            Kind::OpenAiChat | Kind::Anthropic | Kind::Cohere | Kind::Ollama => {
                message(elements(member(body, b"messages")?).last()?, b"content", "text")?
            }
            Kind::OpenAiResponses => match member(body, b"input")? {
                text @ [b'"', ..] => text,
                list => message(elements(list).last()?, b"content", "input_text")?,
            },
            Kind::Gemini => message(elements(member(body, b"contents")?).last()?, b"parts", "")?,
        };
        let raw = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let start = raw.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
        let (before, rest) = body.split_at_checked(start)?;
        let (raw, after) = rest.split_at_checked(raw.len())?;
        Some(Self { before, raw, after })
    }

    /// The text itself.
    pub(crate) fn text(&self) -> Option<String> {
        let mut quoted = Vec::with_capacity(self.raw.len() + 2);
        quoted.push(b'"');
        quoted.extend_from_slice(self.raw);
        quoted.push(b'"');
        serde_json::from_slice(&quoted).ok()
    }
}

/// The text of a user's message: under `key`, or in its only part.
fn message<'a>(message: &'a [u8], key: &[u8], part_type: &str) -> Option<&'a [u8]> {
    if member(message, b"role")? != b"\"user\"" {
        return None;
    }
    let content = member(message, key)?;
    if content.starts_with(b"\"") {
        return Some(content);
    }
    let mut parts = elements(content);
    let part = parts.next().filter(|_| parts.next().is_none())?;
    let is_text = match member(part, b"type") {
        Some(kind) => kind.strip_prefix(b"\"")?.strip_suffix(b"\"")? == part_type.as_bytes(),
        None => part_type.is_empty(),
    };
    is_text.then(|| member(part, b"text"))?
}

/// The value of the only member of this name. `None` also if an escaped name may be the same.
fn member<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut found = None;
    for (key, value) in members(object) {
        if has_escapes(key) || (key == name && found.is_some()) {
            return None;
        }
        if key == name {
            found = Some(value);
        }
    }
    found
}

fn has_escapes(key: &[u8]) -> bool {
    key.contains(&b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn last(kind: Kind, body: &str) -> Option<String> {
        let message = LastMessage::of(kind, body.as_bytes())?;
        assert_eq!([message.before, message.raw, message.after].concat(), body.as_bytes());
        message.text()
    }

    #[test]
    fn each_dialect_has_its_last_message() {
        for (kind, body) in [
            (
                Kind::OpenAiChat,
                r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"a\"b"}]}"#,
            ),
            (Kind::OpenAiChat, r#"{"messages":[{"content":[{"type":"text","text":"a\"b"}],"role":"user"}],"n":1}"#),
            (Kind::OpenAiResponses, r#"{"input":"a\"b"}"#),
            (Kind::OpenAiResponses, r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a\"b"}]}]}"#),
            (Kind::Anthropic, r#"{"messages":[{"role":"user","content":"x"},{"role":"user","content":"a\"b"}]}"#),
            (Kind::Gemini, r#"{"contents":[{"role":"user","parts":[{"text":"a\"b"}]}]}"#),
            (Kind::Cohere, r#"{"messages":[{"role":"user","content":"a\"b"}]}"#),
            (Kind::Ollama, r#"{"messages":[{"role":"user","content":"a\"b"}]}"#),
        ] {
            assert_eq!(last(kind, body).as_deref(), Some("a\"b"), "{body}");
        }
    }

    #[test]
    fn what_is_not_one_text_of_the_users_is_none() {
        for body in [
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
            r#"{"messages":[{"role":"tool","content":"a"}]}"#,
            r#"{"messages":[{"content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"tool_result","text":"a"}]}]}"#,
            r#"{"messages":[{"role":"user","role":"system","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":"a","c\u006fntent":"b"}]}"#,
            r#"{"messages":[],"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"messages":[]}"#,
            r#"{"prompt":"a"}"#,
            "",
            "[]",
        ] {
            assert_eq!(last(Kind::OpenAiChat, body), None, "{body}");
        }
        let half = r#"{"messages":[{"role":"user","content":"\ud800"}]}"#;
        assert_eq!(last(Kind::OpenAiChat, half), None);
    }

    #[test]
    fn state_at_the_server_is_seen() {
        let chat = |body: &str| has_server_state(Kind::OpenAiChat, body.as_bytes());
        assert!(!chat(r#"{"model":"m","messages":[],"store":false,"conversation":null}"#));
        for body in [r#"{"store":true}"#, r#"{"conversation":"c"}"#, r#"{"thread_id":"t"}"#, r#"{"st\u006fre":true}"#] {
            assert!(chat(body), "{body}");
        }
        for body in [
            "\u{FEFF}{\"store\":true}",
            r#"[{"store":true}]"#,
            r#"{"model":"m","messages":[],}"#,
            r#"{"model":"m" "store":true}"#,
            r#"{"model":"m"}{"store":true}"#,
            r#"{"model":"m""#,
            "{\"model\":\"\n\"}",
            "",
        ] {
            assert!(chat(body), "it cannot be told: {body}");
        }
        let responses = |body: &str| has_server_state(Kind::OpenAiResponses, body.as_bytes());
        assert!(responses(r#"{"input":"a"}"#) && responses(r#"{"input":"a","store":null}"#));
        assert!(!responses(r#"{"input":"a","store":false}"#));
        assert!(responses(r#"{"store":false,"input":"a","store":null}"#));
        assert!(!responses(r#"{"store":false,"input":"a","store":false}"#));
        assert!(responses(r#"{"input":"a","store":false,"previous_response_id":"r"}"#));
        assert!(responses(r#"{"input":"a","store":false,"background":true}"#));
    }

    #[test]
    fn a_model_and_a_stream_are_asked_for() {
        let body = br#"{"model":"m\"1","stream":true}"#;
        let gemini = "/v1beta/models/g-1:streamGenerateContent";
        assert_eq!(model(Kind::OpenAiChat, "/v1/chat/completions", body).as_deref(), Some("m\"1"));
        assert_eq!(model(Kind::Gemini, gemini, b"{}").as_deref(), Some("g-1"));
        assert_eq!(model(Kind::OpenAiChat, "/", b"{}"), None);
        assert!(asks_for_stream(Kind::OpenAiChat, "/", body) && !asks_for_stream(Kind::OpenAiChat, "/", b"{}"));
        assert!(asks_for_stream(Kind::Gemini, gemini, b"{}"));
        assert!(
            asks_for_stream(Kind::Ollama, "/", b"{}") && !asks_for_stream(Kind::Ollama, "/", br#"{"stream":false}"#)
        );
    }

    #[test]
    fn several_answers_are_asked_for_by_a_number_above_one() {
        for body in [r#"{"n": 2}"#, r#"{"num_generations":3}"#, r#"{"generationConfig":{"topK":1,"candidateCount":2}}"#]
        {
            assert!(asks_for_several(body.as_bytes()), "{body}");
        }
        for body in ["", r#"{"n":1}"#, r#"{"n":null}"#, r#"{"candidateCount":2}"#, r#"{"messages":[{"n":2}]}"#] {
            assert!(!asks_for_several(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn the_limit_of_an_answer_is_read_in_every_dialect() {
        for (body, limit) in [
            (r#"{"max_tokens":50}"#, Some(50)),
            (r#"{"max_completion_tokens": 50, "max_tokens": null}"#, Some(50)),
            (r#"{"max_output_tokens":50}"#, Some(50)),
            (r#"{"generationConfig":{"topK":1,"maxOutputTokens":50}}"#, Some(50)),
            (r#"{"options":{"num_predict":50}}"#, Some(50)),
            (r#"{"max_tokens":1,"max_completion_tokens":50}"#, Some(50)),
            (r#"{"max_tokens":50,"max_tokens":1}"#, Some(50)),
            (r#"{"max_tokens":50,"m\u0061x_tokens":1000}"#, None),
            (r#"{"max_tokens":50,"n":2}"#, None),
            (r#"{"max_tokens":50,"max_tokens":"many"}"#, None),
            (r#"{"options":{"num_predict":-1}}"#, None),
            (r#"{"messages":[{"max_tokens":50}]}"#, None),
            ("max_tokens", None),
            ("", None),
        ] {
            assert_eq!(output_limit(body.as_bytes()), limit, "{body}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_parser(text: String, before: String) {
            let body = serde_json::json!({
                "messages": [{ "role": "system", "content": before }, { "role": "user", "content": text }],
                "user": "u",
            });
            for body in [body.to_string(), serde_json::to_string_pretty(&body).unwrap()] {
                prop_assert_eq!(last(Kind::OpenAiChat, &body), Some(text.clone()));
            }
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..100_usize) {
            let like = br#"{"messages":[{"role":"user","content":[{"type":"text","text":"a\"b"}]}]}"#;
            for body in [&bytes[..], &like[..cut.min(like.len())]] {
                let _ = output_limit(body);
                for kind in [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Gemini] {
                    let _ = (LastMessage::of(kind, body), has_server_state(kind, body));
                }
            }
        }
    }
}
