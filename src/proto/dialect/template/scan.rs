//! Scans JSON strings and numbers to their end.

use memchr::memchr2;

use crate::proto::dialect::json::utf16_unit;

/// The most bytes of a string that are scanned one by one.
pub(super) const SHORT: usize = 32;

/// The length of a string after its opening quote: `None` if it has no end, is invalid, or needs the parser.
#[inline]
pub(super) fn string(text: &[u8]) -> Option<usize> {
    // A piece of text is a word or two.
    for (at, byte) in text.iter().take(SHORT).enumerate() {
        match byte {
            b'"' => return Some(at),
            b'\\' | ..=0x1F | 0x80.. => break,
            _ => {}
        }
    }
    long_string(text)
}

pub(super) fn long_string(text: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        end += memchr2(b'"', b'\\', text.get(end..)?)?;
        if text.get(end) == Some(&b'"') {
            break;
        }
        end += match text.get(end + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' if !matches!(utf16_unit(text.get(end..)?)?, 0xD800..=0xDFFF) => 6,
            _ => return None,
        };
    }
    let inside = text.get(..end)?;
    let valid = !inside.iter().any(|byte| *byte < b' ') && std::str::from_utf8(inside).is_ok();
    valid.then_some(end)
}

/// The number of leading digits, in JSON's grammar.
#[inline]
pub(super) fn digits(text: &[u8]) -> Option<usize> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count == 1 || count > 1 && text.first() != Some(&b'0')).then_some(count)
}

pub(super) fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
