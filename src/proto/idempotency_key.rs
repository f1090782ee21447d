//! `Idempotency-Key`: the caller's name for a request, so that a repetition is executed once.
//!
//! draft-ietf-httpapi-idempotency-key-header makes it a structured-field string (`"8e03978e"`); the APIs that introduced
//! it, Stripe's first, take it bare (`8e03978e`). Both forms are read, and name the same key.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderName};

/// The key of one request, without quotes and escapes.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use tower_buttress::proto::idempotency_key::IdempotencyKey;
///
/// let mut headers = HeaderMap::new();
/// assert_eq!(IdempotencyKey::of(&headers), Ok(None));
///
/// headers.insert("idempotency-key", HeaderValue::from_static("\"8e03978e-40d5\""));
/// assert_eq!(IdempotencyKey::of(&headers).unwrap().unwrap().as_str(), "8e03978e-40d5");
///
/// headers.insert("idempotency-key", HeaderValue::from_static("8e03978e-40d5"));
/// assert_eq!(IdempotencyKey::of(&headers).unwrap().unwrap().as_str(), "8e03978e-40d5");
///
/// headers.insert("idempotency-key", HeaderValue::from_static("two keys"));
/// assert!(IdempotencyKey::of(&headers).is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey<'a>(Cow<'a, str>);

/// Why an `Idempotency-Key` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidKey {
    /// There is more than one header line, so the key is ambiguous.
    Repeated,
    /// It has no characters.
    Empty,
    /// It has more than [`IdempotencyKey::MAX_LEN`] characters.
    TooLong,
    /// It is neither a structured-field string nor one bare word.
    Malformed,
}

// === impl IdempotencyKey ===

impl<'a> IdempotencyKey<'a> {
    /// The header's name.
    pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

    /// The longest key, in characters: the limit of Stripe, and of most APIs after it.
    pub const MAX_LEN: usize = 255;

    /// Returns the key in `headers`, if there is one. An empty key, quoted or bare, counts as absent.
    ///
    /// # Errors
    ///
    /// If there is a header that is not empty, and is not exactly one key.
    pub fn of(headers: &'a HeaderMap) -> Result<Option<Self>, InvalidKey> {
        let mut lines = headers.get_all(Self::HEADER).into_iter();
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(InvalidKey::Repeated);
        }
        match Self::parse(line.as_bytes()) {
            Err(InvalidKey::Empty) => Ok(None),
            key => key.map(Some),
        }
    }

    /// Reads the value of one header line.
    ///
    /// # Errors
    ///
    /// If it is not a key.
    pub fn parse(line: &'a [u8]) -> Result<Self, InvalidKey> {
        let key = match trim(line) {
            [b'"', quoted @ ..] => unquote(quoted)?,
            bare if bare.iter().copied().all(is_bare) => Cow::Borrowed(bare),
            _ => return Err(InvalidKey::Malformed),
        };
        match key.len() {
            0 => Err(InvalidKey::Empty),
            1..=Self::MAX_LEN => into_str(key).map(Self),
            _ => Err(InvalidKey::TooLong),
        }
    }

    /// The characters of the key: printable ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A character of a bare key. Not the comma: proxies join repeated lines with it. Not the semicolon, which begins the
/// parameters of a structured field. Not the quotation mark, which begins a string.
const fn is_bare(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b',' | b';' | b'"')
}

/// Reads the part after the opening quotation mark: RFC 9651, 4.2.5. No parameters: the draft defines none.
fn unquote(rest: &[u8]) -> Result<Cow<'_, [u8]>, InvalidKey> {
    let Some((b'"', inside)) = rest.split_last() else { return Err(InvalidKey::Malformed) };
    if inside.iter().all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\')) {
        return Ok(Cow::Borrowed(inside));
    }
    let mut key = Vec::new();
    let mut bytes = inside.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(&escaped @ (b'"' | b'\\')) => key.push(escaped),
                _ => return Err(InvalidKey::Malformed),
            },
            b'"' => return Err(InvalidKey::Malformed),
            0x20..=0x7e => key.push(byte),
            _ => return Err(InvalidKey::Malformed),
        }
        // Avoids copying a line that is far too long.
        if key.len() > IdempotencyKey::MAX_LEN {
            return Err(InvalidKey::TooLong);
        }
    }
    Ok(Cow::Owned(key))
}

/// Optional white space around a field's value: RFC 9110, 5.5.
fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = line {
        line = rest;
    }
    line
}

/// The input is ASCII, and so UTF-8.
fn into_str(key: Cow<'_, [u8]>) -> Result<Cow<'_, str>, InvalidKey> {
    match key {
        Cow::Borrowed(key) => std::str::from_utf8(key).map(Cow::Borrowed).map_err(|_| InvalidKey::Malformed),
        Cow::Owned(key) => String::from_utf8(key).map(Cow::Owned).map_err(|_| InvalidKey::Malformed),
    }
}

// === impl InvalidKey ===

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repeated => "more than one Idempotency-Key",
            Self::Empty => "the Idempotency-Key is empty",
            Self::TooLong => "the Idempotency-Key is longer than 255 characters",
            Self::Malformed => "the Idempotency-Key is neither a quoted string nor one bare word",
        })
    }
}

impl std::error::Error for InvalidKey {}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<String, InvalidKey> {
        IdempotencyKey::parse(line.as_bytes()).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn a_key_may_be_quoted_or_bare() {
        assert_eq!(parse("abc-1").unwrap(), "abc-1");
        assert_eq!(parse("\"abc-1\"").unwrap(), "abc-1");
        assert_eq!(parse(" \t abc-1 \t").unwrap(), "abc-1");
        assert_eq!(parse("aGVsbG8+/w==").unwrap(), "aGVsbG8+/w==");
        assert_eq!(parse("order:7/{charge}").unwrap(), "order:7/{charge}");
        assert_eq!(parse("\"with a space, and; more\"").unwrap(), "with a space, and; more");
        assert_eq!(parse(r#""a\"b\\c""#).unwrap(), r#"a"b\c"#);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for malformed in [
            "a b",
            "a, b",
            "a,b",
            "a;b",
            "\"",
            "\"a",
            "a\"",
            "\"a\"b\"",
            "\"a\";p=1",
            "\"a\", \"b\"",
            "\"a\\\"",
            "\"a\\n\"",
            "\"tab\there\"",
            "k\u{e9}y",
            "\"k\u{e9}y\"",
            "a\0b",
        ] {
            assert_eq!(parse(malformed), Err(InvalidKey::Malformed), "{malformed:?}");
        }
        assert_eq!(parse(""), Err(InvalidKey::Empty));
        assert_eq!(parse("  "), Err(InvalidKey::Empty));
        assert_eq!(parse("\"\""), Err(InvalidKey::Empty));
    }

    #[test]
    fn the_length_is_that_of_the_key_not_of_its_spelling() {
        let longest = "k".repeat(255);
        assert_eq!(parse(&longest).unwrap().len(), 255);
        assert_eq!(parse(&format!("\"{longest}\"")).unwrap().len(), 255);
        assert_eq!(parse(&format!("\"{}\"", r"\\".repeat(255))).unwrap().len(), 255);
        assert_eq!(parse(&format!("{longest}k")), Err(InvalidKey::TooLong));
        assert_eq!(parse(&format!("\"{longest}k\"")), Err(InvalidKey::TooLong));
        assert_eq!(parse(&format!("\"{}\"", r"\\".repeat(256))), Err(InvalidKey::TooLong));
    }

    #[test]
    fn an_empty_key_is_none() {
        for line in ["", "  ", "\"\"", " \"\" "] {
            let headers = HeaderMap::from_iter([(IdempotencyKey::HEADER, HeaderValue::from_static(line))]);
            assert_eq!(IdempotencyKey::of(&headers), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn two_lines_are_no_key() {
        let mut headers = HeaderMap::new();
        headers.append(IdempotencyKey::HEADER, HeaderValue::from_static("a"));
        headers.append(IdempotencyKey::HEADER, HeaderValue::from_static("a"));
        assert_eq!(IdempotencyKey::of(&headers), Err(InvalidKey::Repeated));
    }

    proptest! {
        #[test]
        fn an_accepted_key_is_short_and_printable(line in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(key) = IdempotencyKey::parse(&line) {
                prop_assert!((1..=255).contains(&key.as_str().len()));
                prop_assert!(key.as_str().bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
            }
        }

        #[test]
        fn every_key_can_be_quoted_and_comes_back(key in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', "\\\""));
            prop_assert_eq!(parse(&quoted).unwrap(), key);
        }

        #[test]
        fn a_bare_key_is_the_same_quoted(key in "[!#-+\\--:<-\\[\\]-~]{1,255}") {
            prop_assert_eq!(parse(&key).unwrap(), parse(&format!("\"{key}\"")).unwrap());
        }
    }

    #[test]
    fn an_invalid_key_is_an_error_that_says_why() {
        for (wrong, text) in [
            (InvalidKey::Repeated, "more than one Idempotency-Key"),
            (InvalidKey::Empty, "the Idempotency-Key is empty"),
            (InvalidKey::TooLong, "the Idempotency-Key is longer than 255 characters"),
            (InvalidKey::Malformed, "the Idempotency-Key is neither a quoted string nor one bare word"),
        ] {
            assert_eq!(wrong.to_string(), text);
        }
    }
}
