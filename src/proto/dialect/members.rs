//! The members of a JSON object, by type.

use serde_json::{Map, Value};

/// The text under a key.
pub(super) fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

/// The text under a key, if it is not empty.
pub(super) fn some_text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    text(object, key).filter(|text| !text.is_empty())
}

pub(super) fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Vec<Value>> {
    object.get(key).and_then(Value::as_array)
}

pub(super) fn object<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Map<String, Value>> {
    object.get(key).and_then(Value::as_object)
}

pub(super) fn number(object: &Map<String, Value>, key: &str) -> Option<u64> {
    object.get(key).and_then(Value::as_u64)
}

/// A small number; 0 if absent.
pub(super) fn index(object: &Map<String, Value>, key: &str) -> u32 {
    number(object, key).map_or(0, |index| u32::try_from(index).unwrap_or(u32::MAX))
}
