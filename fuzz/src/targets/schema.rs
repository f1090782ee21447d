//! A caller's schema and a model's answer: nothing panics or takes long, and every result parses.

use std::time::{Duration, Instant};

use serde_json::Value;
use tower_buttress::OutputSchema;
use tower_buttress::proto::extract_json::{Wanted, extract};

pub(crate) const VOCABULARY: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\n",
    b" ",
    b"0",
    b"1e9",
    b"-1",
    b"true",
    b"null",
    b"\"a\"",
    b"\"\"",
    b"a",
    b"```json\n",
    b"```\n",
    b"Here: ",
    b"\xEF\xBB\xBF",
    b"{\"type\":\"object\"",
    b"{\"type\":\"array\"",
    b"\"$ref\":\"#\"",
    b"\"$ref\":\"#/$defs/a\"",
    b"\"$ref\":\"#/$defs/b\"",
    b"\"$ref\":\"http://x/\"",
    b"\"$defs\":{\"a\":",
    b"\"b\":",
    b"\"$id\":\"x\"",
    b"\"$anchor\":\"a\"",
    b"\"$dynamicRef\":\"#a\"",
    b"\"$schema\":\"http://json-schema.org/draft-04/schema#\"",
    b"\"properties\":{\"a\":",
    b"\"items\":",
    b"\"prefixItems\":[",
    b"\"allOf\":[",
    b"\"anyOf\":[",
    b"\"oneOf\":[",
    b"\"not\":",
    b"\"if\":",
    b"\"then\":",
    b"\"contains\":",
    b"\"required\":[\"a\"]",
    b"\"additionalProperties\":",
    b"\"patternProperties\":{\"^a\":",
    b"\"unevaluatedProperties\":",
    b"\"pattern\":\"(a+)+$\"",
    b"\"pattern\":\"(?=a)\"",
    b"\"pattern\":\"((a{9}){9}){9}\"",
    b"\"pattern\":\"^[ab]*a[ab]{2000}c$\"",
    b"{\"pattern\":\"^[ab]*a[ab]{2001}c$\"},",
    b"\"enum\":[",
    b"\"const\":",
    b"\"minItems\":99999999999",
    b"\"uniqueItems\":true",
    b"\"multipleOf\":0",
    b"\"multipleOf\":1e-300",
    b"\"maxLength\":-1",
    b"\"format\":\"regex\"",
    b"\"contentMediaType\":\"application/json\"",
    b"\xff\xff",
];

/// A generous limit that only unbounded work exceeds, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let start = Instant::now();
    for wanted in [Wanted::Either, Wanted::Object, Wanted::Array] {
        if let Some(found) = extract(&text, wanted) {
            assert!(serde_json::from_str::<Value>(&found.json).is_ok(), "what was found is no JSON: {found:?}");
        }
    }
    let long = format!("\"{}\"", "ab".repeat(32 * 1024));
    // The first half is the schema, with open brackets closed; the second is the answer.
    let half = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (schema, answer) = text.split_at(half);
    for schema in [schema.to_owned(), closed(schema)] {
        let Ok(schema) = serde_json::from_str::<Value>(&schema) else { continue };
        if let Ok(schema) = OutputSchema::new(&schema) {
            for answer in [answer, "{\"a\":{\"a\":[\"aaaaaaaa\",1]}}", &long] {
                if let Ok(json) = schema.check(answer) {
                    assert!(serde_json::from_str::<Value>(&json).is_ok(), "what was found is no JSON: {json}");
                }
            }
        }
    }
    assert!(start.elapsed() < LONG, "it took {:?}", start.elapsed());
}

/// The text with its brackets closed, so that more inputs are schemas.
fn closed(text: &str) -> String {
    let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '{' if !in_string => open.push('}'),
            '[' if !in_string => open.push(']'),
            '}' | ']' if !in_string => drop(open.pop()),
            _ => {}
        }
    }
    let mut closed = text.trim_end_matches([',', ':']).to_owned();
    if in_string {
        closed.push('"');
    }
    closed.extend(open.into_iter().rev());
    closed
}
