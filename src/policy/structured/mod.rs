//! Checks whether an answer has the requested form.

mod bounds;
mod schema;
mod tools;

use std::borrow::Cow;

pub use self::schema::{InvalidSchema, OutputSchema};
pub(crate) use self::tools::ToolSchemas;
use crate::call::OutputFault;
use crate::proto::extract_json::{Wanted, extract};

/// The result of checking a text that should be JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The text is valid.
    Valid,
    /// The text contains this valid value.
    Extracted(String),
    /// The text is invalid.
    Invalid(Complaint),
}

/// The fault of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) fault: OutputFault,
    /// The places that do not match the schema, without their values.
    pub(crate) errors: Vec<String>,
    /// The fault is in the arguments of a tool call.
    is_of_call: bool,
}

/// The most errors that the model is told.
const MAX_ERRORS: usize = 5;

/// Checks a text that should be JSON, by this schema. `may_extract`: accepts a value inside a sentence, or with a mistake
/// that can be repaired.
pub(crate) fn examine(text: &str, schema: Option<&OutputSchema>, may_extract: bool) -> Finding {
    if text.trim().is_empty() {
        return Complaint::of(OutputFault::Empty);
    }
    let wanted = schema.map_or(Wanted::Either, OutputSchema::wanted);
    let Some(found) = extract(text, wanted).filter(|found| found.is_whole || may_extract) else {
        return Complaint::of(OutputFault::Syntax);
    };
    let errors = schema.map(|schema| schema.errors(&found.json, found.json.len())).unwrap_or_default();
    if !errors.is_empty() {
        return Finding::Invalid(Complaint { fault: OutputFault::Schema, errors, is_of_call: false });
    }
    match found.json {
        Cow::Borrowed(_) if found.is_whole => Finding::Valid,
        json => Finding::Extracted(json.into_owned()),
    }
}

// === impl Complaint ===

impl Complaint {
    fn of(fault: OutputFault) -> Finding {
        Finding::Invalid(Self { fault, errors: Vec::new(), is_of_call: false })
    }

    /// Returns the text for the model.
    pub(crate) fn text(&self) -> String {
        if self.is_of_call {
            let errors = self.errors.join("\n- ");
            return format!(
                "Your call of a tool has wrong arguments:\n- {errors}\nCall it again with the corrected arguments."
            );
        }
        let wrong = match self.fault {
            OutputFault::Empty => "Your answer was empty.".to_owned(),
            OutputFault::Syntax => "Your answer is not one JSON value.".to_owned(),
            OutputFault::Schema => {
                format!("Your answer does not match the JSON schema:\n- {}", self.errors.join("\n- "))
            }
        };
        format!("{wrong}\nAnswer again with the corrected JSON only: no other text, and no code fence.")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_looked_at_as_a_whole_then_for_what_is_in_it() {
        let schema = OutputSchema::new(&json!({
            "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"],
        }));
        let schema = schema.unwrap();
        let of = |text: &str| examine(text, Some(&schema), true);
        assert_eq!(of(r#"{"name":"a"}"#), Finding::Valid);
        assert_eq!(of(" {\"name\":\"a\"}\n"), Finding::Valid);
        assert_eq!(of(r#"Sure: {"name":"a",}"#), Finding::Extracted(r#"{"name":"a"}"#.to_owned()));
        let Finding::Invalid(complaint) = of(r#"{"name":"secret","age":1}"#.replace("\"secret\"", "7").as_str()) else {
            panic!()
        };
        assert_eq!(complaint.fault, OutputFault::Schema);
        assert_eq!(complaint.errors, ["/name: value is not of type \"string\""]);
        assert!(complaint.text().contains("/name") && !complaint.text().contains('7'));
        for (text, fault) in
            [("no", OutputFault::Syntax), (" ", OutputFault::Empty), ("{\"name\":", OutputFault::Syntax)]
        {
            let Finding::Invalid(complaint) = of(text) else { panic!("{text}") };
            assert_eq!(complaint.fault, fault, "{text}");
        }
        assert!(matches!(examine("a {}", None, true), Finding::Extracted(_)));
        assert!(matches!(examine("a {}", None, false), Finding::Invalid(_)));
    }
}
