use std::error::Error;
use std::fmt;
use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::bounds::{self, Size, Steps};
use super::{Finding, MAX_ERRORS, examine};
use crate::call::OutputFault;
use crate::proto::extract_json::Wanted;

/// A compiled JSON Schema to check answers. In a request's extensions, or as a setting of
/// [`StructuredOutputLayer`](crate::StructuredOutputLayer), it replaces the schema in the request.
///
/// Drafts 4 to 2020-12. Its cost is bounded: 64 KiB, 64 levels deep, 10,000 parts, each counted as often as references
/// lead to it; references only within the schema, without cycles; regular expressions without look-around and
/// back-references, which take linear time, and 4 MiB together. `format` is not checked.
///
/// ```
/// use serde_json::json;
/// use tower_buttress::{OutputFault, OutputSchema};
///
/// let schema = OutputSchema::new(&json!({ "type": "object", "required": ["city"] })).unwrap();
/// assert_eq!(schema.check(r#"{"city": "Paris"}"#).as_deref(), Ok(r#"{"city": "Paris"}"#));
/// assert_eq!(schema.check(r#"It is {"city": "Paris",}."#).as_deref(), Ok(r#"{"city": "Paris"}"#));
/// assert_eq!(schema.check(r#"{"town": "Paris"}"#), Err(OutputFault::Schema));
/// assert_eq!(schema.check(r#"{"city": "Par"#), Err(OutputFault::Syntax));
///
/// assert!(OutputSchema::new(&json!({ "$ref": "https://example.com/schema.json" })).is_err());
/// ```
#[derive(Clone)]
pub struct OutputSchema(Arc<Compiled>);

struct Compiled {
    validator: Validator,
    wanted: Wanted,
    parts: u64,
    steps: Steps,
    bytes: usize,
}

/// A schema that cannot be used to check answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidSchema {
    reason: &'static str,
}

/// The longest error text, in bytes: it may contain names of the schema.
const MAX_ERROR: usize = 300;
/// The size limit of a compiled regular expression, in bytes.
const REGEX_SIZE: usize = 256 * 1024;
/// The first size limit: an expression needs more if it fails to compile.
const SMALL_REGEX: usize = 1024;
/// The size limit of all regular expressions of a schema together.
const ALL_REGEXES: usize = 4 * 1024 * 1024;
/// The approximate size of a compiled part.
const PART_SIZE: usize = 512;

// === impl OutputSchema ===

impl OutputSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    ///
    /// Returns an [`InvalidSchema`] if it is no schema, or exceeds the bounds.
    pub fn new(schema: &Value) -> Result<Self, InvalidSchema> {
        let refused = |reason| InvalidSchema { reason };
        if schema.to_string().len() > bounds::MAX_BYTES {
            return Err(refused("it is too large"));
        }
        let size = bounds::size_of(schema).map_err(refused)?;
        let Size { parts, patterns, .. } = size;
        let patterns = usize::try_from(patterns).unwrap_or(usize::MAX);
        let regex = REGEX_SIZE.min(ALL_REGEXES / patterns.max(1));
        let bytes = usize::try_from(parts).unwrap_or(usize::MAX).saturating_mul(PART_SIZE);
        let bytes = bytes.saturating_add(patterns.saturating_mul(regex));
        let build = |limit| {
            let patterns = PatternOptions::regex().size_limit(limit).dfa_size_limit(4 * regex);
            let options = jsonschema::options().with_pattern_options(patterns).should_validate_formats(false).offline();
            options.build(schema).map(|validator| (validator, limit))
        };
        let built = limits(regex).map(build).find(Result::is_ok).unwrap_or_else(|| build(regex));
        let (validator, limit) = built.map_err(|_| refused("it is not a JSON Schema"))?;
        let steps = bounds::steps(size, limit);
        Ok(Self(Arc::new(Compiled { validator, wanted: wanted(schema), parts, steps, bytes })))
    }

    /// Returns the JSON that `text` is or contains, if it matches the schema.
    ///
    /// # Errors
    ///
    /// Returns the fault of the text.
    pub fn check(&self, text: &str) -> Result<String, OutputFault> {
        match examine(text, Some(self), true) {
            Finding::Valid => Ok(text.trim().to_owned()),
            Finding::Extracted(json) => Ok(json),
            Finding::Invalid(complaint) => Err(complaint.fault),
        }
    }

    /// The largest compiled size, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Whether a text of this length is checked so quickly that other calls may wait for it.
    pub(crate) fn is_quick(&self, text: usize) -> bool {
        bounds::is_quick(self.0.steps, text)
    }

    pub(super) fn wanted(&self) -> Wanted {
        self.0.wanted
    }

    /// Returns the errors of a value: none for a value that would take too long to check. `all`: the bytes of all values
    /// of the same answer.
    pub(super) fn errors(&self, json: &str, all: usize) -> Vec<String> {
        if !bounds::may_check(self.0.steps, all) {
            return Vec::new();
        }
        let Ok(value) = serde_json::from_str::<Value>(json) else { return vec!["it is no JSON".to_owned()] };
        if self.0.validator.is_valid(&value) {
            return Vec::new();
        }
        if !bounds::may_list_errors(self.0.parts, all) {
            return vec!["it is too long to say where".to_owned()];
        }
        let errors = self.0.validator.iter_errors(&value).take(MAX_ERRORS);
        errors.map(|error| shortened(format!("{}: {}", error.instance_path(), error.masked()))).collect()
    }
}

/// The size limits of a regular expression, first small and then larger.
fn limits(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(SMALL_REGEX), |limit| limit.checked_mul(4)).take_while(move |limit| *limit < most)
}

/// The kind of value that a schema describes.
fn wanted(schema: &Value) -> Wanted {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => Wanted::Object,
        Some("array") => Wanted::Array,
        _ if schema.get("properties").is_some() => Wanted::Object,
        _ => Wanted::Either,
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_ERROR {
        let end = (0..=MAX_ERROR).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Without the schema, which is the caller's data.
impl fmt::Debug for OutputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputSchema").field("parts", &self.0.parts).finish_non_exhaustive()
    }
}

// === impl InvalidSchema ===

impl InvalidSchema {
    pub(crate) const fn reason(self) -> &'static str {
        self.reason
    }
}

impl fmt::Display for InvalidSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON Schema that is not used: {}", self.reason)
    }
}

impl Error for InvalidSchema {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn regular_expressions_take_linear_time() {
        let schema = OutputSchema::new(&json!({ "type": "string", "pattern": "^(a+)+$" })).unwrap();
        let text = format!("\"{}!\"", "a".repeat(100_000));
        assert_eq!(schema.check(&text), Err(OutputFault::Schema));
        for refused in ["(?=a)b", "(a)\\1", "(a{1000}){1000}"] {
            assert!(OutputSchema::new(&json!({ "pattern": refused })).is_err(), "{refused}");
        }
    }

    #[test]
    fn many_regular_expressions_take_no_more_than_a_few() {
        let with = |count: usize, pattern: &str| {
            let properties: serde_json::Map<_, _> =
                (0..count).map(|number| (number.to_string(), json!({ "pattern": pattern }))).collect();
            OutputSchema::new(&json!({ "properties": properties }))
        };
        let large = "\\p{L}{5}";
        assert!(with(10, large).is_ok() && with(600, "^\\d{4}-\\d{2}-\\d{2}$").is_ok());
        assert!(with(300, large).is_err(), "each is allowed, but not all of them");
    }

    /// Each takes as many steps per byte as it has states: millions in all.
    #[test]
    fn large_regular_expressions_check_short_texts_only() {
        let repeated = |number| json!({ "pattern": format!("^[ab]*a[ab]{{{}}}c$", 2000 + number) });
        let hostile = json!({ "anyOf": (0..16).map(repeated).collect::<Vec<_>>() });
        let schema = OutputSchema::new(&hostile).unwrap();
        let wrong = |letters: usize| format!("\"{}\"", "ab".repeat(letters / 2));
        assert_eq!(schema.check(&wrong(64)), Err(OutputFault::Schema));
        assert!(schema.check(&wrong(64 * 1024)).is_ok(), "it is not checked");
        // Common expressions check long texts.
        let date = json!({ "items": { "pattern": "^\\d{4}-\\d{2}-\\d{2}$" } });
        let schema = OutputSchema::new(&json!({ "allOf": vec![date; 8] })).unwrap();
        let long = |date: &str| format!("[{}\"2026-01-01\"]", format!("\"{date}\",").repeat(8_000));
        assert!(schema.check(&long("2026-11-27")).is_ok());
        assert_eq!(schema.check(&long("27.11.2026")), Err(OutputFault::Schema));
    }

    #[test]
    fn a_thousand_errors_are_not_listed() {
        let all: Vec<_> = (0..100).map(|_| json!({ "type": "string" })).collect();
        let schema = OutputSchema::new(&json!({ "items": { "allOf": all } })).unwrap();
        let errors = |json: &str| schema.errors(json, json.len());
        assert_eq!(errors("[1,2]").len(), MAX_ERRORS);
        let long = format!("[{}1]", "1,".repeat(50_000));
        assert_eq!(errors(&long), ["it is too long to say where"]);
        assert_eq!(errors(&long.replace('1', "\"\"")), [""; 0]);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [json!({ "type": 7 }), json!([]), json!({ "$schema": "http://nowhere.invalid/x" })] {
            assert!(OutputSchema::new(&schema).is_err(), "{schema}");
        }
        assert!(OutputSchema::new(&json!({ "description": "x".repeat(70_000) })).is_err());
    }

    #[test]
    fn what_stands_in_the_answer_is_not_in_the_complaint() {
        let schema =
            OutputSchema::new(&json!({ "properties": { "a": { "type": "integer" }, "b": { "maxLength": 2 } } }))
                .unwrap();
        let errors = schema.errors(r#"{"a":"secret","b":"secret"}"#, 0);
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().all(|error| !error.contains("secret")), "{errors:?}");
    }

    #[test]
    fn a_schema_error_names_the_fault_and_not_the_text() {
        let refused = OutputSchema::new(&serde_json::json!({ "$ref": "secret" })).unwrap_err();
        assert_eq!(refused.reason(), "it refers to other documents");
        assert_eq!(refused.to_string(), "a JSON Schema that is not used: it refers to other documents");
        let schema = OutputSchema::new(&serde_json::json!({ "const": "secret" })).unwrap();
        assert_eq!(format!("{schema:?}"), "OutputSchema { parts: 2, .. }");
    }

    #[test]
    fn the_kind_of_value_is_read_from_the_schema() {
        let wanted = |schema| OutputSchema::new(&schema).unwrap().wanted();
        assert_eq!(wanted(serde_json::json!({ "type": "object" })), Wanted::Object);
        assert_eq!(wanted(serde_json::json!({ "properties": {} })), Wanted::Object);
        assert_eq!(wanted(serde_json::json!({ "type": "array", "properties": {} })), Wanted::Array);
        assert_eq!(wanted(serde_json::json!({ "type": "string" })), Wanted::Either);
    }
}
