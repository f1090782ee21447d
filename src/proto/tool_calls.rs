//! The tools that a request offers, and the calls of them in a JSON answer.

use serde_json::Value;

use super::dialect::Kind;

/// A tool that a request offers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// The JSON Schema of its arguments, if the request has one.
    pub(crate) schema: Option<Value>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    /// JSON, if the model wrote any.
    pub(crate) arguments: String,
}

/// Returns the tools of a request that the caller runs. The provider's own tools are not included if they have no name.
pub(crate) fn offered(kind: Kind, request: &Value) -> Vec<Tool> {
    // Gemini's `parameters` are OpenAPI, not JSON Schema.
    let schema = match kind {
        Kind::OpenAiChat | Kind::OpenAiResponses | Kind::Cohere | Kind::Ollama => "parameters",
        Kind::Anthropic => "input_schema",
        Kind::Gemini => "parametersJsonSchema",
    };
    let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
    let functions = tools.flat_map(|tool| match kind {
        Kind::OpenAiChat | Kind::Cohere | Kind::Ollama => tool.get("function").into_iter().collect(),
        Kind::OpenAiResponses | Kind::Anthropic => vec![tool],
        Kind::Gemini => {
            let declared = tool.get("functionDeclarations").or_else(|| tool.get("function_declarations"));
            declared.and_then(Value::as_array).into_iter().flatten().collect()
        }
    });
    let tool = |function: &Value| {
        let name = function.get("name")?.as_str()?.to_owned();
        Some(Tool { name, schema: function.get(schema).filter(|schema| schema.is_object()).cloned() })
    };
    functions.filter_map(tool).collect()
}

/// Returns the tool calls in a JSON answer.
pub(crate) fn called(kind: Kind, answer: &[u8]) -> Vec<ToolCall> {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return Vec::new() };
    let list = match kind {
        Kind::OpenAiChat => "/choices/0/message/tool_calls",
        Kind::Cohere | Kind::Ollama => "/message/tool_calls",
        Kind::OpenAiResponses => "/output",
        Kind::Anthropic => "/content",
        Kind::Gemini => "/candidates/0/content/parts",
    };
    let is = |item: &Value, kind: &str| item.get("type").and_then(Value::as_str) == Some(kind);
    let call = |item: &Value| {
        let (call, arguments) = match kind {
            Kind::OpenAiChat | Kind::Cohere | Kind::Ollama => (item.get("function")?, "arguments"),
            Kind::OpenAiResponses => (is(item, "function_call").then_some(item)?, "arguments"),
            Kind::Anthropic => (is(item, "tool_use").then_some(item)?, "input"),
            Kind::Gemini => (item.get("functionCall")?, "args"),
        };
        let name = call.get("name")?.as_str()?.to_owned();
        let arguments = match call.get(arguments) {
            // A call without arguments.
            None | Some(Value::Null) => "{}".to_owned(),
            Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        Some(ToolCall { name, arguments })
    };
    answer.pointer(list).and_then(Value::as_array).into_iter().flatten().filter_map(call).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_dialect_has_its_tools_and_its_calls() {
        let schema = json!({ "type": "object" });
        let function = json!({ "name": "f", "parameters": schema });
        let wrapped = json!([{ "type": "function", "function": function }, { "type": "web_search" }]);
        let message = |arguments: Value| json!([{ "function": { "name": "f", "arguments": arguments } }]);
        for (kind, tools, answer) in [
            (
                Kind::OpenAiChat,
                wrapped.clone(),
                json!({ "choices": [{ "message": { "tool_calls": message(json!("{\"a\":1}")) } }] }),
            ),
            (Kind::Cohere, wrapped.clone(), json!({ "message": { "tool_calls": message(json!("{\"a\":1}")) } })),
            (Kind::Ollama, wrapped, json!({ "message": { "tool_calls": message(json!({ "a": 1 })) } })),
            (
                Kind::OpenAiResponses,
                json!([{ "type": "function", "name": "f", "parameters": schema }, { "type": "web_search" }]),
                json!({ "output": [{ "type": "reasoning" }, { "type": "function_call", "name": "f", "arguments": "{\"a\":1}" }] }),
            ),
            (
                Kind::Anthropic,
                json!([{ "name": "f", "input_schema": schema }]),
                json!({ "content": [{ "type": "text", "text": "So" }, { "type": "tool_use", "name": "f", "input": { "a": 1 } }] }),
            ),
            (
                Kind::Gemini,
                json!([{ "functionDeclarations": [{ "name": "f", "parametersJsonSchema": schema }] }, { "googleSearch": {} }]),
                json!({ "candidates": [{ "content": { "parts": [{ "functionCall": { "name": "f", "args": { "a": 1 } } }] } }] }),
            ),
        ] {
            let tool = Tool { name: "f".to_owned(), schema: Some(schema.clone()) };
            assert_eq!(offered(kind, &json!({ "tools": tools })), [tool], "{kind:?}");
            let call = ToolCall { name: "f".to_owned(), arguments: r#"{"a":1}"#.to_owned() };
            assert_eq!(called(kind, answer.to_string().as_bytes()), [call], "{kind:?}");
            assert_eq!((offered(kind, &json!({})), called(kind, b"{}"), called(kind, b"{")), (vec![], vec![], vec![]));
        }
    }

    #[test]
    fn a_tool_may_have_no_schema_and_a_call_no_arguments() {
        let tools = json!({ "tools": [{ "type": "bash_20250124", "name": "bash" }] });
        assert_eq!(offered(Kind::Anthropic, &tools), [Tool { name: "bash".to_owned(), schema: None }]);
        for arguments in [json!(null), json!(""), json!({})] {
            let answer =
                json!({ "message": { "tool_calls": [{ "function": { "name": "f", "arguments": arguments } }] } });
            assert_eq!(called(Kind::Ollama, answer.to_string().as_bytes())[0].arguments, "{}");
        }
    }
}
