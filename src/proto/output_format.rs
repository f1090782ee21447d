//! The form of the answer that a request asks for.

use serde_json::Value;

use super::dialect::Kind;
#[cfg(any(feature = "schema", test))]
use super::json_object::members;

/// The requested form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// Any text.
    Text,
    /// Any JSON.
    Json,
    /// JSON by this schema.
    Schema(Value),
    /// A form that only the server can check: a grammar, a regular expression.
    Other,
}

/// The members of requests in which [`OutputFormat::of`] looks.
#[cfg(any(feature = "schema", test))]
const MEMBERS: [&[u8]; 7] = [
    b"response_format",
    b"text",
    b"output_config",
    b"output_format",
    b"format",
    b"generationConfig",
    b"generation_config",
];

// === impl OutputFormat ===

impl OutputFormat {
    /// Whether a request with this body may ask for anything but text: it has one of these members, or one whose name is
    /// escaped.
    #[cfg(any(feature = "schema", test))]
    pub(crate) fn may_be_in(body: &[u8]) -> bool {
        members(body).any(|(name, _)| MEMBERS.contains(&name) || name.contains(&b'\\'))
    }

    /// Reads the form from a request's body.
    pub(crate) fn of(kind: Kind, body: &Value) -> Self {
        let at = |name: &str| body.get(name).filter(|value| !value.is_null());
        let within = |outer: &str, name: &str| body.get(outer)?.get(name).filter(|value| !value.is_null());
        match kind {
            Kind::OpenAiChat => Self::of_object(at("response_format"), "/json_schema/schema"),
            Kind::OpenAiResponses => Self::of_object(within("text", "format"), "/schema"),
            Kind::Anthropic => {
                Self::of_object(within("output_config", "format").or_else(|| at("output_format")), "/schema")
            }
            Kind::Cohere => match Self::of_object(at("response_format"), "/json_schema") {
                Self::Json => {
                    within("response_format", "schema").map_or(Self::Json, |schema| Self::Schema(schema.clone()))
                }
                other => other,
            },
            Kind::Ollama => match at("format") {
                // Clients send an empty string when none was set.
                Some(Value::String(format)) if format.is_empty() => Self::Text,
                Some(Value::String(_)) => Self::Json,
                Some(schema) => Self::Schema(schema.clone()),
                None => Self::Text,
            },
            Kind::Gemini => {
                let config = at("generationConfig").or_else(|| at("generation_config"));
                let of = |names: [&str; 2]| {
                    let found = names.iter().find_map(|name| config?.get(name));
                    found.filter(|value| !value.is_null())
                };
                // `responseSchema` is OpenAPI's dialect, with types in capitals: it is not a JSON Schema.
                match of(["responseJsonSchema", "response_json_schema"]) {
                    Some(schema) => Self::Schema(schema.clone()),
                    None if of(["responseSchema", "response_schema"]).is_some() => Self::Json,
                    None => match of(["responseMimeType", "response_mime_type"]).and_then(Value::as_str) {
                        Some("application/json") => Self::Json,
                        _ => Self::Text,
                    },
                }
            }
        }
    }

    /// `{"type": "json_schema", ..}`, with the schema at `path`.
    fn of_object(format: Option<&Value>, path: &str) -> Self {
        let Some(format) = format else { return Self::Text };
        match format.get("type").and_then(Value::as_str) {
            None | Some("text") => Self::Text,
            Some("json_object" | "json_schema" | "json") => {
                match format.pointer(path).filter(|schema| schema.is_object() || schema.is_boolean()) {
                    Some(schema) => Self::Schema(schema.clone()),
                    None => Self::Json,
                }
            }
            Some(_) => Self::Other,
        }
    }
}

/// Whether the answer should be text, and not JSON or a tool call.
pub(crate) fn wants_text(kind: Kind, body: &[u8]) -> bool {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    body.is_some_and(|body| OutputFormat::of(kind, &body) == OutputFormat::Text && !forces_tool(kind, &body))
}

/// Whether the answer continues words that the caller has written as the model's: it is not complete by itself.
#[cfg(any(feature = "schema", test))]
pub(crate) fn continues_answer(kind: Kind, body: &Value) -> bool {
    let (turns, role) = match kind {
        Kind::Gemini => ("contents", "model"),
        Kind::OpenAiResponses => ("input", "assistant"),
        _ => ("messages", "assistant"),
    };
    let last = body.get(turns).and_then(Value::as_array).and_then(|turns| turns.last());
    last.and_then(|turn| turn.get("role")).is_some_and(|found| found == role)
}

/// Whether the answer must be a tool call.
pub(crate) fn forces_tool(kind: Kind, body: &Value) -> bool {
    let choice = match kind {
        Kind::Gemini => {
            let mode = body.pointer("/toolConfig/functionCallingConfig/mode");
            return mode.and_then(Value::as_str).is_some_and(|mode| mode.eq_ignore_ascii_case("any"));
        }
        _ => body.get("tool_choice"),
    };
    match choice {
        None | Some(Value::Null) => false,
        Some(Value::String(choice)) => !matches!(choice.as_str(), "auto" | "none"),
        Some(choice) => !matches!(choice.get("type").and_then(Value::as_str), Some("auto" | "none")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_dialect_says_it_in_its_own_way() {
        let schema = json!({ "type": "object" });
        for (kind, body) in [
            (
                Kind::OpenAiChat,
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema } } }),
            ),
            (
                Kind::OpenAiResponses,
                json!({ "text": { "format": { "type": "json_schema", "name": "n", "schema": schema } } }),
            ),
            (Kind::Anthropic, json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } })),
            (Kind::Anthropic, json!({ "output_format": { "type": "json_schema", "schema": schema } })),
            (
                Kind::Gemini,
                json!({ "generationConfig": { "responseMimeType": "application/json", "responseJsonSchema": schema } }),
            ),
            (Kind::Cohere, json!({ "response_format": { "type": "json_object", "json_schema": schema } })),
            (Kind::Cohere, json!({ "response_format": { "type": "json_object", "schema": schema } })),
            (Kind::Ollama, json!({ "format": schema })),
        ] {
            assert_eq!(OutputFormat::of(kind, &body), OutputFormat::Schema(schema.clone()), "{body}");
            assert!(OutputFormat::may_be_in(body.to_string().as_bytes()), "{body}");
        }
        for (kind, body) in [
            (Kind::OpenAiChat, json!({ "response_format": { "type": "json_object" } })),
            (Kind::OpenAiResponses, json!({ "text": { "format": { "type": "json_object" } } })),
            (Kind::Gemini, json!({ "generationConfig": { "responseSchema": { "type": "OBJECT" } } })),
            (Kind::Gemini, json!({ "generation_config": { "response_mime_type": "application/json" } })),
            (Kind::Cohere, json!({ "response_format": { "type": "json_object" } })),
            (Kind::Ollama, json!({ "format": "json" })),
        ] {
            assert_eq!(OutputFormat::of(kind, &body), OutputFormat::Json, "{body}");
            assert!(OutputFormat::may_be_in(body.to_string().as_bytes()), "{body}");
        }
        for (kind, body) in [
            (Kind::OpenAiChat, json!({ "response_format": { "type": "text" } })),
            (Kind::OpenAiChat, json!({ "response_format": null })),
            (Kind::OpenAiResponses, json!({ "text": { "verbosity": "low" } })),
            (Kind::Gemini, json!({ "generationConfig": { "temperature": 0 } })),
            (Kind::Ollama, json!({ "format": "" })),
            (Kind::Ollama, json!([])),
        ] {
            assert_eq!(OutputFormat::of(kind, &body), OutputFormat::Text, "{body}");
        }
        let grammar = json!({ "response_format": { "type": "grammar", "grammar": "root ::= \"yes\"" } });
        assert_eq!(OutputFormat::of(Kind::OpenAiChat, &grammar), OutputFormat::Other);
        assert!(!wants_text(Kind::OpenAiChat, grammar.to_string().as_bytes()));
    }

    #[test]
    fn a_name_may_be_escaped() {
        assert!(!OutputFormat::may_be_in(br#"{"model":"m","messages":[{"format":"response_format"}],"stream":true}"#));
        assert!(OutputFormat::may_be_in(br#"{"model":"m","response\u005fformat":{"type":"json_object"}}"#));
    }

    #[test]
    fn an_answer_that_was_begun_for_the_model_is_seen() {
        let turns = |role: &str| json!([{ "role": "user" }, { "role": role }]);
        assert!(continues_answer(Kind::Anthropic, &json!({ "messages": turns("assistant") })));
        assert!(continues_answer(Kind::OpenAiResponses, &json!({ "input": turns("assistant") })));
        assert!(continues_answer(Kind::Gemini, &json!({ "contents": turns("model") })));
        for body in
            [json!({ "messages": turns("user") }), json!({ "messages": [] }), json!({ "messages": "assistant" })]
        {
            assert!(!continues_answer(Kind::OpenAiChat, &body), "{body}");
        }
    }

    #[test]
    fn a_forced_tool_is_seen() {
        for forced in [json!("required"), json!({ "type": "function" }), json!({ "type": "any" }), json!("REQUIRED")] {
            assert!(forces_tool(Kind::OpenAiChat, &json!({ "tool_choice": forced })), "{forced}");
        }
        for free in [json!(null), json!("auto"), json!("none"), json!({ "type": "auto" })] {
            assert!(!forces_tool(Kind::OpenAiChat, &json!({ "tool_choice": free })), "{free}");
        }
        let gemini = json!({ "toolConfig": { "functionCallingConfig": { "mode": "ANY" } } });
        assert!(forces_tool(Kind::Gemini, &gemini) && !forces_tool(Kind::Gemini, &json!({})));
    }
    #[test]
    fn a_text_is_wanted_where_neither_json_nor_a_tool_is() {
        for (body, wants) in [
            (json!({}), true),
            (json!({ "tool_choice": "auto" }), true),
            (json!({ "tool_choice": "required" }), false),
            (json!({ "response_format": { "type": "json_object" } }), false),
            (json!({ "response_format": { "type": "json_object" }, "tool_choice": "required" }), false),
        ] {
            assert_eq!(wants_text(Kind::OpenAiChat, body.to_string().as_bytes()), wants, "{body}");
        }
        assert!(!wants_text(Kind::OpenAiChat, b"{"), "it cannot be read");
    }

    #[test]
    fn a_schema_may_be_a_boolean_and_nothing_else_that_is_no_object() {
        let format =
            |schema| json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": schema } } });
        assert_eq!(OutputFormat::of(Kind::OpenAiChat, &format(json!(true))), OutputFormat::Schema(json!(true)));
        for none in [json!(null), json!("x"), json!([])] {
            assert_eq!(OutputFormat::of(Kind::OpenAiChat, &format(none)), OutputFormat::Json);
        }
    }
}
