//! What says that a request is one that came before: its key, and its JSON.

use tower_buttress::proto::canonical_json::canonical;
use tower_buttress::proto::idempotency_key::IdempotencyKey;

pub(crate) const VOCABULARY: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\\"",
    b"\\u0061",
    b"\\ud83d\\ude00",
    b" ",
    b"\t",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\"a\":",
    b"\"b\":1",
    b"1.0",
    b"1e400",
    b"9007199254740993",
    b"-0",
    b"null",
    b"true",
    b"8e03978e-40d5-43dd-bc93-6894a57f9324",
    b"\xFF",
];

/// A key is short and printable; the canonical form is JSON, and its own canonical form.
pub(crate) fn run(input: &[u8]) {
    if let Ok(key) = IdempotencyKey::parse(input) {
        let key = key.as_str();
        assert!(!key.is_empty() && key.len() <= IdempotencyKey::MAX_LEN, "{key:?}");
        assert!(key.bytes().all(|byte| (0x20..0x7F).contains(&byte)), "{key:?}");
    }
    if let Some(once) = canonical(input) {
        assert!(once.len() <= input.len(), "it grew");
        assert_eq!(canonical(&once).as_deref(), Some(&*once));
    }
}
