//! Checks the arguments of tool calls.

use std::sync::Arc;

use serde_json::Value;

use super::{Complaint, MAX_ERRORS, OutputSchema};
use crate::call::OutputFault;
use crate::proto::tool_calls::ToolCall;

/// The tools of a request, with the schemas of their arguments, if any.
#[derive(Clone)]
pub(crate) struct ToolSchemas(Arc<[(String, Option<OutputSchema>)]>);

// === impl ToolSchemas ===

impl ToolSchemas {
    pub(crate) fn new(tools: Vec<(String, Option<OutputSchema>)>) -> Self {
        Self(tools.into())
    }

    /// Returns the fault of these calls, if any. A tool that is unknown here may be the provider's: its arguments only
    /// have to be JSON.
    pub(crate) fn examine(&self, calls: &[ToolCall]) -> Option<Complaint> {
        let (mut errors, mut fault) = (Vec::new(), OutputFault::Schema);
        // Many calls cost as much as one with all their arguments.
        let all = calls.iter().map(|call| call.arguments.len()).sum();
        for ToolCall { name, arguments } in calls {
            if serde_json::from_str::<Value>(arguments).is_err() {
                errors.push(format!("{name}: the arguments are no JSON"));
                fault = OutputFault::Syntax;
                continue;
            }
            let known = self.0.iter().find(|(known, _)| known == name);
            let wrong = known.and_then(|(_, schema)| Some(schema.as_ref()?.errors(arguments, all))).unwrap_or_default();
            errors.extend(wrong.into_iter().map(|error| format!("{name}{error}")));
        }
        errors.truncate(MAX_ERRORS);
        (!errors.is_empty()).then_some(Complaint { fault, errors, is_of_call: true })
    }

    /// Whether the calls in an answer of this length are checked so quickly that other calls may wait for it.
    pub(crate) fn is_quick(&self, length: usize) -> bool {
        self.0.iter().filter_map(|(_, schema)| schema.as_ref()).all(|schema| schema.is_quick(length))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_json_and_what_the_schema_of_their_tool_describes() {
        let schema = OutputSchema::new(&json!({
            "type": "object", "required": ["city"], "properties": { "city": { "type": "string" } },
        }));
        let tools = ToolSchemas::new(vec![("weather".to_owned(), schema.ok()), ("bash".to_owned(), None)]);
        let of = |calls: &[(&str, &str)]| {
            let calls: Vec<_> = calls
                .iter()
                .map(|(name, arguments)| ToolCall { name: (*name).to_owned(), arguments: (*arguments).to_owned() })
                .collect();
            tools.examine(&calls).map(|complaint| (complaint.fault, complaint.errors.join("; "), complaint.text()))
        };
        for valid in [&[][..], &[("weather", r#"{"city":"Paris"}"#), ("bash", "{}")], &[("search", "[1]")]] {
            assert_eq!(of(valid), None, "{valid:?}");
        }
        let (fault, errors, text) = of(&[("bash", "{}"), ("weather", r#"{"city":7}"#)]).unwrap();
        assert_eq!((fault, errors.as_str()), (OutputFault::Schema, "weather/city: value is not of type \"string\""));
        assert!(text.contains(&errors) && text.contains("call") && !text.contains('7'));
        let (fault, errors, _) = of(&[("search", "{\"city\":\"secret"), ("weather", "{}")]).unwrap();
        assert_eq!(fault, OutputFault::Syntax);
        assert_eq!(errors, "search: the arguments are no JSON; weather: \"city\" is a required property");
        assert_eq!(of(&[("weather", "{}"); 9]).unwrap().1.matches("required").count(), MAX_ERRORS);
    }

    #[test]
    fn many_calls_are_checked_only_where_one_with_all_their_arguments_is() {
        let schema = OutputSchema::new(&json!({ "properties": { "a": { "pattern": "^[ab]*a[ab]{2000}c$" } } }));
        let tools = ToolSchemas::new(vec![("find".to_owned(), schema.ok())]);
        let call = ToolCall { name: "find".to_owned(), arguments: json!({ "a": "ab".repeat(2_000) }).to_string() };
        let is_wrong = |calls: usize| tools.examine(&vec![call.clone(); calls]).is_some();
        assert!(is_wrong(1) && !is_wrong(100));
    }
}
