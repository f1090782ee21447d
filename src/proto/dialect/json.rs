//! JSON that arrives in pieces, and may be too large to hold.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde_json::Value;

/// Longer strings of a large text are cut to this length. Names, reasons and messages are shorter, generated images longer.
const MAX_STRING: usize = 256;
/// The limit of a text with its strings cut. Beyond it the structure alone is too large to read.
const MAX_KEPT: usize = 1024 * 1024;

/// The position in a JSON text: the depth, and whether it is in a string. It knows no further grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct JsonPosition {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// Copies a JSON text without the inside of its long strings, so that an event with an image takes a few hundred bytes.
///
/// The output is valid if the input is, and the same however the input is split.
#[derive(Clone, Debug, Default)]
pub(super) struct Shortener {
    kept: Vec<u8>,
    position: JsonPosition,
    /// The kept bytes of the current string.
    string: usize,
    /// Inside a string, beyond its limit.
    skipping: bool,
    /// The remaining bytes of an incomplete escape: `\u` and four digits.
    escape_left: usize,
    overflowed: bool,
}

/// Parses a complete JSON text. Half a surrogate pair, which models send when cut between two tokens, is replaced as in
/// the browsers' `TextDecoder`; the parser alone would reject the whole text.
pub(super) fn parse(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok().or_else(|| serde_json::from_slice(&mend_surrogates(text)?).ok())
}

/// Replaces lone surrogate escapes by U+FFFD; `None` if there are none.
fn mend_surrogates(text: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Vec::new();
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        mended.extend_from_slice(before);
        let unit = utf16_unit(escape);
        let taken = match unit {
            Some(0xD800..=0xDBFF) if matches!(escape.get(6..).and_then(utf16_unit), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => {
                mended.extend_from_slice("\u{FFFD}".as_bytes());
                rest = escape.get(6..)?;
                continue;
            }
            _ => 2,
        };
        mended.extend_from_slice(escape.get(..taken).unwrap_or(escape));
        rest = escape.get(taken..).unwrap_or_default();
    }
    if mended.is_empty() {
        return None;
    }
    mended.extend_from_slice(rest);
    Some(mended)
}

/// The UTF-16 code unit of the escape (a backslash, `u` and four hexadecimal digits) at the start of `text`.
pub(super) fn utf16_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0_u16, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

/// Decodes the content of a JSON string. Invalid content is returned unchanged.
pub(super) fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if memchr(b'\\', raw).is_none() {
        return String::from_utf8_lossy(raw);
    }
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    match parse(&quoted) {
        Some(Value::String(text)) => Cow::Owned(text),
        _ => String::from_utf8_lossy(raw),
    }
}

// === impl JsonPosition ===

impl JsonPosition {
    /// Reads up to the bracket that closes a value opened at `depth`. Returns how many bytes that took, or `None` at the
    /// end of the input.
    pub(super) fn close(&mut self, bytes: &[u8], depth: usize) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.in_string {
                at += self.string(rest);
                continue;
            }
            let quote = memchr(b'"', rest).unwrap_or(rest.len());
            for (index, byte) in rest.get(..quote).unwrap_or_default().iter().enumerate() {
                match byte {
                    b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == depth {
                            return Some(at + index + 1);
                        }
                    }
                    _ => {}
                }
            }
            self.in_string = quote < rest.len();
            at += quote + 1;
        }
        None
    }

    /// Reads inside a string. Returns the number of its bytes, its closing quote included.
    fn string(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.escaped {
            self.escaped = false;
            at = 1;
        }
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            at += found;
            if bytes.get(at) == Some(&b'"') {
                self.in_string = false;
                return at + 1;
            }
            at += 2;
        }
        self.escaped = at > bytes.len();
        bytes.len()
    }

    /// Whether brackets or a string are open.
    pub(super) fn is_open(&self) -> bool {
        self.depth > 0 || self.in_string
    }
}

// === impl Shortener ===

impl Shortener {
    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.overflowed {
            let before = self.position.in_string;
            let taken = if before {
                self.position.string(bytes)
            } else {
                let quote = memchr(b'"', bytes).map_or(bytes.len(), |quote| quote + 1);
                let _ = self.position.close(bytes.get(..quote).unwrap_or_default(), usize::MAX);
                quote
            };
            let (part, rest) = bytes.split_at(taken.min(bytes.len()));
            if before {
                self.keep_string(part);
            } else {
                self.kept.extend_from_slice(part);
            }
            if before && !self.position.in_string {
                (self.string, self.skipping, self.escape_left) = (0, false, 0);
            }
            bytes = rest;
            if self.kept.len() > MAX_KEPT {
                self.overflowed = true;
                self.kept = Vec::new();
            }
        }
    }

    /// Keeps a piece of a string within the limit, cut at a character boundary, and its closing quote.
    fn keep_string(&mut self, part: &[u8]) {
        let (inside, quote) = if self.position.in_string {
            (part, None)
        } else {
            part.split_at_checked(part.len() - 1).map_or((part, None), |(inside, _)| (inside, Some(b'"')))
        };
        if !self.skipping && self.string + inside.len() <= MAX_STRING {
            // The usual case; but incomplete escapes must be known when the limit is reached.
            self.note_escapes(inside);
            self.kept.extend_from_slice(inside);
            self.string += inside.len();
        } else if !self.skipping {
            for byte in inside {
                let boundary = self.escape_left == 0 && (*byte & 0xC0) != 0x80;
                if boundary && self.string >= MAX_STRING {
                    self.skipping = true;
                    break;
                }
                self.note_escapes(std::slice::from_ref(byte));
                self.kept.push(*byte);
                self.string += 1;
            }
        }
        self.kept.extend(quote);
    }

    /// Tracks escapes: `\n` takes one more byte, `\u` five.
    fn note_escapes(&mut self, bytes: &[u8]) {
        if self.escape_left == 0 && memchr(b'\\', bytes).is_none() {
            return;
        }
        for byte in bytes {
            self.escape_left = match (self.escape_left, byte) {
                (0, b'\\') => ESCAPE,
                (ESCAPE, b'u') => 4,
                (0 | ESCAPE, _) => 0,
                (left, _) => left - 1,
            };
        }
    }

    /// Whether brackets or a string are open.
    pub(super) fn is_open(&self) -> bool {
        self.position.is_open()
    }

    /// The text so far, with its long strings cut; `None` if it is still too large.
    pub(super) fn kept(&self) -> Option<&[u8]> {
        (!self.overflowed).then_some(&self.kept)
    }
}

/// After a backslash, before the length of its escape is known.
const ESCAPE: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shorten(pieces: &[&[u8]]) -> Vec<u8> {
        let mut shortener = Shortener::default();
        for piece in pieces {
            shortener.push(piece);
        }
        shortener.kept().unwrap().to_vec()
    }

    #[test]
    fn short_strings_are_kept_and_long_ones_cut() {
        let text = format!("{{\"a\":[1,\"b\\\"]\"],\"image\":\"{}\",\"end\":\"STOP\"}}", "x".repeat(100_000));
        let kept: Value = serde_json::from_slice(&shorten(&[text.as_bytes()])).unwrap();
        assert_eq!(kept["a"], serde_json::json!([1, "b\"]"]));
        assert_eq!(kept["image"], "x".repeat(MAX_STRING));
        assert_eq!(kept["end"], "STOP");
    }

    #[test]
    fn a_string_is_cut_between_characters() {
        for filler in 0..8 {
            for unit in ["ü", "\\u00fc", "\\n", "\\\\", "😀", "\\ud83d\\ude00"] {
                let text = format!("[\"{}{}\",\"ü\"]", "x".repeat(MAX_STRING - filler), unit.repeat(9));
                let kept = shorten(&[text.as_bytes()]);
                let kept = parse(&kept).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&kept)));
                assert_eq!(kept[1], "ü");
            }
        }
    }

    #[test]
    fn what_is_too_large_in_structure_is_given_up() {
        let mut shortener = Shortener::default();
        shortener.push("[1,".repeat(MAX_KEPT).as_bytes());
        assert_eq!(shortener.kept(), None);
        assert!(shortener.kept.capacity() == 0);
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let mut position = JsonPosition::default();
        assert_eq!(position.close(br#"{"a":"}\"}","b":[{}]} rest"#, 0), Some(21));
        assert!(!position.is_open());
        assert_eq!(position.close(br#"{"a":"}"#, 0), None);
        assert!(position.is_open());
        assert_eq!(position.close(br#"\"#, 0), None);
        assert_eq!(position.close(br#"""#, 0), None);
        assert_eq!(position.close(br#"" }"#, 0), Some(3));
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(parse(br#"["a\ud83d"]"#).unwrap()[0], "a\u{FFFD}");
        assert_eq!(parse(br#"["\ude00\\ud83d\n"]"#).unwrap()[0], "\u{FFFD}\\ud83d\n");
        assert_eq!(parse(br#"["\ud83d\ud83d\ude00"]"#).unwrap()[0], "\u{FFFD}\u{1F600}");
        assert_eq!(parse(br#"["\ud83d\ude00"]"#).unwrap()[0], "\u{1F600}");
        assert_eq!(parse(br#"["\ud83d"#), None);
        assert_eq!(parse(b"\\"), None);
        assert_eq!(unescape(br"a\ud83d\n"), "a\u{FFFD}\n");
        assert_eq!(unescape(b"a\xFF"), "a\u{FFFD}");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(text in r#"([\[\]{},:"a\\u0é]|x{200}|\\")*"#, cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(shorten(&pieces), shorten(&[bytes]));
            let (mut whole, mut cut) = (JsonPosition::default(), JsonPosition::default());
            let _ = whole.close(bytes, usize::MAX);
            for piece in pieces {
                let _ = cut.close(piece, usize::MAX);
            }
            prop_assert_eq!(whole, cut);
        }

        #[test]
        fn what_is_short_is_unchanged(text in r#"([\[\]{},:]|"([a-zé]|\\n|\\u00fc|\\\\|\\"){0,40}")*"#) {
            prop_assert_eq!(shorten(&[text.as_bytes()]), text.as_bytes());
        }
    }
}
