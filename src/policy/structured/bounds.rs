//! Bounds the cost of checking a value by a caller's schema.
//!
//! # Why not any schema?
//!
//! A schema is a program. With references that lead to two others each, thirty lines of it take 10^9 steps for a single
//! value; with a reference to itself it never ends. So only references within the schema are followed, a cycle is
//! refused, and the cost of a schema is counted before use: the number of its parts, each counted as often as references
//! lead to it, and the states of its regular expressions. A check takes at most that many steps for each part of a value.

use serde_json::{Map, Value};

/// The largest schema, as JSON, in bytes.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// The deepest nesting.
const MAX_DEPTH: usize = 64;
/// The most parts, each counted as often as references lead to it.
const MAX_PARTS: u64 = 10_000;
/// The most steps of a check: parts of the schema, and states of its regular expressions, times bytes of the text.
const MAX_STEPS: u64 = 1 << 28;
/// The most steps of a check that lists errors. There is at most one error of some hundred bytes per four steps.
const MAX_LISTED: u64 = 1 << 20;

/// The steps of a check in a millisecond or two, including the list of errors.
const QUICK_STEPS: u64 = 1 << 16;
/// The lowest cost of a regular expression per byte of text, in those steps: it builds tables.
const QUICK_STEPS_PER_PATTERN: u64 = 1 << 10;
/// The smallest size of a compiled regular-expression state, in bytes.
const STATE_SIZE: u64 = 24;

/// Keywords whose members are named schemas, not keywords.
const MAPS: [&str; 6] = ["properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"];

/// Keywords that refer to anything but a pointer within the schema.
const FOREIGN: [&str; 7] =
    ["$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor", "$vocabulary", "definitionsRef"];

/// Why a schema is not used.
pub(super) type SchemaRefusal = &'static str;

/// The size of a schema, each part counted as often as references lead to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) parts: u64,
    /// Regular expressions, as often as they are compiled.
    pub(super) patterns: u64,
    /// Regular expressions, as often as they are searched.
    pub(super) searches: u64,
}

/// The steps that a check takes per byte of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    all: u64,
    /// Its cost when other calls wait for it.
    waited_for: u64,
}

struct Count<'a> {
    root: &'a Value,
    /// The references that are being followed.
    following: Vec<&'a str>,
    size: Size,
}

/// Counts the size of a schema.
pub(super) fn size_of(schema: &Value) -> Result<Size, SchemaRefusal> {
    let mut count = Count { root: schema, following: Vec::new(), size: Size::default() };
    count.value(schema, 0, 1)?;
    Ok(count.size)
}

/// Returns the cost of a check by a schema of this size, whose compiled regular expressions have at most `regex` bytes
/// each. Each byte of text may take as many steps as an expression has states.
pub(super) fn steps(size: Size, regex: usize) -> Steps {
    let states = (regex as u64).div_ceil(STATE_SIZE);
    let with = |per_pattern: u64| size.parts.saturating_add(size.searches.saturating_mul(per_pattern));
    Steps { all: with(states), waited_for: with(states.max(QUICK_STEPS_PER_PATTERN)) }
}

/// Whether a text of this length may be checked.
pub(super) fn may_check(steps: Steps, text: usize) -> bool {
    steps.all.saturating_mul(text as u64) <= MAX_STEPS
}

/// Whether errors in such a text may be listed: the validator collects all errors before it returns the first.
pub(super) fn may_list_errors(parts: u64, text: usize) -> bool {
    parts.saturating_mul(text as u64) <= MAX_LISTED
}

/// Whether a text of this length is checked quickly.
pub(super) fn is_quick(steps: Steps, text: usize) -> bool {
    steps.waited_for.saturating_mul(text as u64) <= QUICK_STEPS
}

impl<'a> Count<'a> {
    /// Counts `value`, `times` times.
    fn value(&mut self, value: &'a Value, depth: usize, times: u64) -> Result<(), SchemaRefusal> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply");
        }
        self.add(times)?;
        match value {
            Value::Object(object) => self.object(object, depth, times),
            Value::Array(items) => items.iter().try_for_each(|item| self.value(item, depth + 1, times)),
            // A pattern is a program too.
            Value::String(text) => self.add(times.saturating_mul(text.len() as u64 / 16)),
            _ => Ok(()),
        }
    }

    fn object(&mut self, object: &'a Map<String, Value>, depth: usize, times: u64) -> Result<(), SchemaRefusal> {
        if FOREIGN.iter().any(|keyword| object.contains_key(*keyword)) {
            return Err("it has references that are not followed");
        }
        // `id` is draft 4's. After such a part, references would mean something else than what is counted.
        if depth > 0 && ["$id", "id"].iter().any(|name| object.get(*name).is_some_and(Value::is_string)) {
            return Err("a part of it has its own `$id`");
        }
        // These keywords examine all other parts once more.
        let again = ["unevaluatedProperties", "unevaluatedItems"].iter().any(|keyword| object.contains_key(*keyword));
        let times = if again { times.saturating_mul(2) } else { times };
        for (key, value) in object {
            match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => self.follow(reference, depth, times)?,
                // Values, not schemas: their content has no meaning.
                ("const" | "enum" | "default" | "examples" | "example", value) => {
                    self.add(times.saturating_mul(size(value)))?;
                }
                (key, Value::Object(map)) if MAPS.contains(&key) => {
                    if key == "patternProperties" {
                        self.patterns(map.len() as u64, times);
                    }
                    // A definition is compiled once; its uses are counted where references lead to it.
                    let times = if key.ends_with("efs") || key == "definitions" { 1 } else { times };
                    self.add(times)?;
                    map.values().try_for_each(|schema| self.value(schema, depth + 1, times))?;
                }
                (key, value) => {
                    self.patterns(u64::from(key == "pattern" && value.is_string()), times);
                    self.value(value, depth + 1, times)?;
                }
            }
        }
        Ok(())
    }

    fn follow(&mut self, reference: &'a str, depth: usize, times: u64) -> Result<(), SchemaRefusal> {
        let pointer = reference.strip_prefix('#').ok_or("it refers to other documents")?;
        if self.following.contains(&reference) {
            return Err("it has a circular reference");
        }
        if pointer.contains('%') || !(pointer.is_empty() || pointer.starts_with('/')) {
            return Err("it has references that are not followed");
        }
        let root = self.root;
        let target = root.pointer(pointer).ok_or("it has a reference to nothing")?;
        if pointer.is_empty() {
            return Err("it has a circular reference");
        }
        self.following.push(reference);
        // The depth of the definition is counted separately.
        self.add(1)?;
        let counted = self.value(target, depth.saturating_add(1), times);
        self.following.pop();
        counted
    }

    fn patterns(&mut self, count: u64, times: u64) {
        self.size.patterns = self.size.patterns.saturating_add(count);
        self.size.searches = self.size.searches.saturating_add(count.saturating_mul(times));
    }

    fn add(&mut self, parts: u64) -> Result<(), SchemaRefusal> {
        self.size.parts = self.size.parts.saturating_add(parts);
        if self.size.parts > MAX_PARTS { Err("it has too many parts") } else { Ok(()) }
    }
}

/// The number of values in a value.
fn size(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.iter().map(size).fold(1, u64::saturating_add),
        Value::Object(object) => object.values().map(size).fold(1, u64::saturating_add),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usual_schemas_are_counted() {
        let schema = json!({
            "$id": "https://example.com/x", "type": "object", "additionalProperties": false, "required": ["a", "b"],
            "properties": { "a": { "$ref": "#/$defs/item" }, "b": { "type": "array", "items": { "$ref": "#/$defs/item" } } },
            "$defs": { "item": { "type": "string", "enum": ["x", "y"] } },
        });
        let size = size_of(&schema).unwrap();
        assert!((20..60).contains(&size.parts), "{size:?}");
        assert_eq!((size.patterns, size.searches), (0, 0));
        assert!(may_check(steps(size, 1024), 1024 * 1024));
        assert!(!may_check(steps(Size { parts: MAX_PARTS, ..size }, 1024), 1024 * 1024));
    }

    #[test]
    fn hostile_ones_are_refused() {
        // Each definition uses the next one twice.
        let mut definitions = Map::new();
        for number in 0..60 {
            let next = format!("#/$defs/d{}", number + 1);
            definitions.insert(format!("d{number}"), json!({ "allOf": [{ "$ref": next }, { "$ref": next }] }));
        }
        definitions.insert("d60".into(), json!({ "type": "string" }));
        let bomb = json!({ "$ref": "#/$defs/d0", "$defs": definitions });
        let deep = (0..70).fold(json!({}), |inner, _| json!({ "properties": { "a": inner } }));
        for schema in [
            bomb,
            deep,
            json!({ "$ref": "#" }),
            json!({ "$ref": "#/a", "a": { "$ref": "#/b" }, "b": { "$ref": "#/a" } }),
            json!({ "properties": { "child": { "$ref": "#" } } }),
            json!({ "$ref": "https://example.com/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "$ref": "other.json" }),
            json!({ "$ref": "#/nothing" }),
            json!({ "$ref": "#anchor", "x": { "$anchor": "anchor" } }),
            json!({ "properties": { "a": { "$id": "http://x/", "$ref": "#/a" } } }),
            json!({ "$dynamicRef": "#a" }),
            json!({ "enum": vec![0; 20_000] }),
            json!({ "properties": { "default": { "$ref": "#" } } }),
            json!({ "properties": { "enum": { "properties": { "const": { "$ref": "http://x/" } } } } }),
        ] {
            assert!(size_of(&schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn patterns_are_counted_as_often_as_they_are_compiled() {
        let id = json!({ "type": "string", "pattern": "^[a-z]+$" });
        let schema = json!({
            "properties": { "a": { "$ref": "#/$defs/id" }, "b": { "$ref": "#/$defs/id" }, "pattern": { "type": "string" } },
            "patternProperties": { "^x": {}, "^y": {} }, "$defs": { "id": id },
        });
        let size = size_of(&schema).unwrap();
        assert_eq!(size.patterns, 5, "two uses and the definition, and two of properties");
        assert_eq!(size.searches, 5);
        let again =
            json!({ "unevaluatedProperties": false, "items": { "pattern": "^a" }, "patternProperties": { "b": {} } });
        let size = size_of(&again).unwrap();
        assert_eq!((size.patterns, size.searches), (2, 4), "all is looked at twice");
    }

    #[test]
    fn an_address_of_draft_4_does_not_hide_what_references_mean() {
        let inner = json!({ "id": "http://x/", "allOf": [{ "$ref": "#/definitions/a" }], "definitions": { "a": {} } });
        for schema in [
            json!({ "$schema": "http://json-schema.org/draft-04/schema#", "properties": { "a": inner }, "definitions": { "a": {} } }),
            json!({ "properties": { "a": inner }, "definitions": { "a": {} } }),
        ] {
            assert!(size_of(&schema).is_err(), "{schema}");
        }
        assert!(size_of(&json!({ "id": "http://x/", "properties": { "id": { "type": "string" } } })).is_ok());
    }

    fn parts(schema: &Value) -> Result<u64, SchemaRefusal> {
        size_of(schema).map(|size| size.parts)
    }

    #[test]
    fn each_part_is_counted_as_often_as_it_is_looked_at() {
        for (schema, expected) in [
            (json!(true), 1),
            (json!({ "type": "string" }), 2),
            (json!([1, 2, 3]), 4),
            (json!({ "pattern": "x".repeat(15) }), 2),
            (json!({ "pattern": "x".repeat(16) }), 3),
            (json!({ "pattern": "x".repeat(160) }), 12),
            (json!({ "enum": [1, 2] }), 4),
            (json!({ "properties": { "a": {}, "b": {} } }), 4),
            (json!({ "unevaluatedProperties": true }), 3),
            (json!({ "unevaluatedItems": true, "properties": { "a": {} } }), 7),
            (json!({ "$defs": { "a": {} } }), 3),
            (json!({ "$defs": { "a": {} }, "$ref": "#/$defs/a" }), 5),
        ] {
            assert_eq!(parts(&schema), Ok(expected), "{schema}");
        }
    }

    #[test]
    fn a_schema_nests_to_the_limit_and_may_name_itself_at_the_top() {
        let nested = |depth| (0..depth).fold(json!({}), |inner, _| json!({ "items": inner }));
        assert!(parts(&nested(64)).is_ok() && parts(&nested(65)).is_err());
        assert!(parts(&json!({ "$id": "http://x/" })).is_ok());
        assert!(parts(&json!({ "items": { "$id": 1 } })).is_ok(), "no address");
        assert!(parts(&json!({ "items": { "$id": "http://x/" } })).is_err());
        assert!(parts(&json!({ "a~b": 1, "$ref": "#/a%7Eb" })).is_err(), "not followed");
    }

    #[test]
    fn a_short_text_is_checked_quickly_unless_the_schema_is_large_or_has_regular_expressions() {
        let steps = |parts, searches, regex| steps(Size { parts, patterns: searches, searches }, regex);
        let quick = |parts, searches, text| is_quick(steps(parts, searches, 1024), text);
        assert!(is_quick(steps(0, 1, 1024), 64) && !is_quick(steps(0, 1, 48 * 1024), 64));
        assert!(quick(64, 0, 1024) && !quick(64, 0, 1025));
        assert!(quick(16, 0, 4096) && !quick(MAX_PARTS, 0, 16));
        assert!(quick(0, 1, 64) && !quick(0, 1, 65) && !quick(0, u64::MAX, 1) && !quick(u64::MAX, 1, 1));
    }

    #[test]
    fn a_check_is_bounded_in_steps() {
        let may_check = |parts, searches, text| {
            let size = Size { parts, patterns: searches, searches };
            may_check(steps(size, 24 * 1024), text)
        };
        assert!(may_check(1 << 14, 0, 1 << 14) && !may_check(1 << 14, 0, (1 << 14) + 1));
        assert!(may_check(0, 16, 1 << 14) && !may_check(1, 16, 1 << 14), "1,024 states each");
        assert!(!may_check(u64::MAX, 1, 2) && may_check(u64::MAX, u64::MAX, 0));
    }
}
