//! The identity of a repeated request: its key, and its JSON.

use serde_json::Value;
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

/// A key is short and printable. The canonical form has the input's content in the same tokens, and is its own
/// canonical form.
pub(crate) fn run(input: &[u8]) {
    if let Ok(key) = IdempotencyKey::parse(input) {
        let key = key.as_str();
        assert!(!key.is_empty() && key.len() <= IdempotencyKey::MAX_LEN, "{key:?}");
        assert!(key.bytes().all(|byte| (0x20..0x7F).contains(&byte)), "{key:?}");
    }
    read(input);
    // Few inputs are JSON of more than a token; this one always is.
    let mut json = Vec::new();
    write(&mut input.iter().copied(), 0, &mut json);
    read(&json);
}

fn read(json: &[u8]) {
    let Some(once) = canonical(json) else { return };
    assert_eq!(sorted(once.clone()), sorted(without_space(json)), "something was lost, or made up");
    assert_eq!(canonical(&once).as_deref(), Some(&*once));
    // serde_json does not accept every number of JSON.
    if let Ok(said) = serde_json::from_slice::<Value>(json) {
        assert_eq!(serde_json::from_slice::<Value>(&once).ok(), Some(said));
    }
}

/// Writes the JSON value that `dice` choose.
fn write(dice: &mut impl Iterator<Item = u8>, depth: usize, json: &mut Vec<u8>) {
    const NAMES: [&str; 6] = [r#""a""#, r#""b""#, r#""\u0062""#, r#""c\"""#, r#""\\""#, r#""""#];
    const LEAVES: [&str; 8] = ["0", "-0", "1.0", "1e400", "9007199254740993", "null", r#""a,b}""#, r#""\\\"""#];
    const SPACE: [&str; 4] = ["", " ", "\n", "\t\r"];
    let mut roll = |below: usize| usize::from(dice.next().unwrap_or(0)) % below;
    let (open, close) = match roll(if depth < 4 { 3 } else { 1 }) {
        0 => return json.extend_from_slice(LEAVES[roll(LEAVES.len())].as_bytes()),
        1 => (b'[', b']'),
        _ => (b'{', b'}'),
    };
    json.push(open);
    for member in 0..roll(5) {
        let mut roll = |below: usize| usize::from(dice.next().unwrap_or(0)) % below;
        let space = SPACE[roll(SPACE.len())];
        json.extend_from_slice(if member > 0 { b"," } else { b"" });
        json.extend_from_slice(space.as_bytes());
        if open == b'{' {
            json.extend_from_slice(NAMES[roll(NAMES.len())].as_bytes());
            json.extend_from_slice(space.as_bytes());
            json.push(b':');
        }
        write(dice, depth + 1, json);
        json.extend_from_slice(space.as_bytes());
    }
    json.push(close);
}

/// Valid JSON without the space between its tokens.
fn without_space(json: &[u8]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let mut is_kept = |byte: &u8| {
        let kept = in_string || !byte.is_ascii_whitespace();
        in_string ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        kept
    };
    json.iter().copied().filter(|byte| is_kept(byte)).collect()
}

fn sorted(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.sort_unstable();
    bytes
}
