//! Splits a stream into lines, in chunks of any size.

use memchr::memchr2;

/// "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any."
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// How a stream ends its lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LineEnding {
    /// `\n`. Assumed before the first line has ended.
    #[default]
    Lf,
    /// `\r\n`.
    CrLf,
    /// `\r` alone.
    Cr,
}

/// The line splitter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::proto) struct Lines {
    /// The number of bytes of a byte order mark so far; all once it is known whether there is one.
    mark: u8,
    /// The last byte was a CR: its line has ended, and a following LF belongs to it.
    cr: bool,
    ending: LineEnding,
}

/// A part of a line.
#[derive(Debug)]
pub(in crate::proto) struct LinePart<'a> {
    pub(in crate::proto) content: &'a [u8],
    /// Whether the line is complete.
    pub(in crate::proto) ended: bool,
}

// === impl LineEnding ===

impl LineEnding {
    /// The bytes of this line ending.
    ///
    /// ```
    /// use tower_buttress::proto::sse::LineEnding;
    ///
    /// assert_eq!(LineEnding::CrLf.as_str(), "\r\n");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lf => "\n",
            Self::CrLf => "\r\n",
            Self::Cr => "\r",
        }
    }
}

// === impl Lines ===

impl Lines {
    pub(in crate::proto) const fn new() -> Self {
        Self { mark: 0, cr: false, ending: LineEnding::Lf }
    }

    /// Takes the next piece of a line off `input`; `None` when `input` is used up.
    #[inline]
    pub(in crate::proto) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<LinePart<'a>> {
        if !self.mark_settled() {
            let unmarked;
            (self.mark, unmarked, *input) = read_mark(self.mark, input);
            if !unmarked.is_empty() {
                return Some(LinePart { content: unmarked, ended: false });
            }
        }
        let mut rest = *input;
        let &(mut first) = rest.first()?;
        if self.cr {
            self.cr = false;
            if first == b'\n' {
                self.ending = LineEnding::CrLf;
                rest = &rest[1..];
                *input = rest;
                first = *rest.first()?;
            } else {
                self.ending = LineEnding::Cr;
            }
        }
        // Every event ends in a blank line, which needs no search.
        let end = if matches!(first, b'\n' | b'\r') { Some(0) } else { memchr2(b'\n', b'\r', rest) };
        let Some(end) = end else {
            *input = &[];
            return Some(LinePart { content: rest, ended: false });
        };
        if rest[end] == b'\r' {
            self.cr = true;
        } else {
            self.ending = LineEnding::Lf;
        }
        *input = &rest[end + 1..];
        Some(LinePart { content: &rest[..end], ended: true })
    }

    /// Whether no byte was read yet.
    pub(in crate::proto) const fn untouched(&self) -> bool {
        self.mark == 0
    }

    /// Whether a byte order mark can no longer come.
    #[inline]
    pub(in crate::proto) const fn mark_settled(&self) -> bool {
        self.mark == 3
    }

    /// Notes that the stream has no byte order mark, if its first byte does not begin one.
    #[inline]
    pub(in crate::proto) fn begin(&mut self, first: u8) {
        if self.untouched() && first != BOM[0] {
            self.mark = 3;
        }
    }

    /// Whether neither the LF of the last line nor a byte order mark may follow.
    #[inline]
    pub(in crate::proto) fn is_settled(&self) -> bool {
        self.mark_settled() && !self.cr
    }

    /// Notes that the last byte ended a line, in this way.
    #[inline]
    pub(in crate::proto) fn line_ended(&mut self, ending: LineEnding) {
        (self.cr, self.ending) = (false, ending);
    }

    pub(in crate::proto) const fn after_cr(&self) -> bool {
        self.cr
    }

    pub(in crate::proto) const fn ending(&self) -> LineEnding {
        self.ending
    }
}

/// Reads a possible byte order mark, of which `mark` bytes have come. Returns the new number, bytes of earlier chunks
/// that are content after all, and the rest.
#[cold]
fn read_mark(mut mark: u8, mut input: &[u8]) -> (u8, &'static [u8], &[u8]) {
    while let (Some(expected), Some((byte, rest))) = (BOM.get(usize::from(mark)), input.split_first()) {
        if byte != expected {
            return (3, &BOM[..usize::from(mark)], input);
        }
        mark += 1;
        input = rest;
    }
    (mark, &[], input)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the chunks; ended lines are followed by a `|`.
    #[track_caller]
    fn check(chunks: &[&str], lines: &str, ending: LineEnding) {
        let mut splitter = Lines::default();
        let mut read = String::new();
        for chunk in chunks {
            let mut rest = chunk.as_bytes();
            while let Some(piece) = splitter.next(&mut rest) {
                read += &String::from_utf8_lossy(piece.content);
                read += if piece.ended { "|" } else { "" };
            }
            assert!(rest.is_empty());
        }
        assert_eq!(read, lines);
        assert_eq!(splitter.ending(), ending);
    }

    #[test]
    fn each_ending_ends_a_line() {
        check(&["a\nb\n\n"], "a|b||", LineEnding::Lf);
        check(&["a\r\nb\r\n\r\n"], "a|b||", LineEnding::CrLf);
        check(&["a\rb\r\rc"], "a|b||c", LineEnding::Cr);
    }

    #[test]
    fn endings_may_be_mixed() {
        check(&["a\r\n\n\rb\n\r\nc"], "a|||b||c", LineEnding::CrLf);
    }

    #[test]
    fn a_cr_at_the_end_of_a_chunk_ends_the_line_at_once() {
        check(&["a\r"], "a|", LineEnding::Lf);
    }

    #[test]
    fn a_crlf_cut_in_two_is_one_ending() {
        check(&["a\r", "\nb"], "a|b", LineEnding::CrLf);
        check(&["a\r", "", "\n", "\n"], "a||", LineEnding::Lf);
    }

    #[test]
    fn what_the_stream_uses_is_known_only_after_the_byte_behind_a_cr() {
        check(&["a\r\n", "b\r"], "a|b|", LineEnding::CrLf);
        check(&["a\r\n", "b\r", "c"], "a|b|c", LineEnding::Cr);
    }

    #[test]
    fn one_leading_mark_is_dropped_in_any_pieces() {
        let whole = "\u{FEFF}a\n\u{FEFF}b".as_bytes();
        for cut in 0..=3 {
            let mut splitter = Lines::default();
            let mut read = Vec::new();
            for mut rest in [&whole[..cut], &whole[cut..]] {
                while let Some(piece) = splitter.next(&mut rest) {
                    read.extend_from_slice(piece.content);
                }
            }
            assert_eq!(read, "a\u{FEFF}b".as_bytes(), "cut at {cut}");
        }
        check(&["\u{FEFF}\u{FEFF}a\n"], "\u{FEFF}a|", LineEnding::Lf);
    }

    #[test]
    fn half_a_mark_is_content() {
        for chunks in [vec![&b"\xEF\xBBa\n"[..]], vec![b"\xEF", b"\xBB", b"a", b"\n"]] {
            let mut splitter = Lines::default();
            let mut read = Vec::new();
            for mut rest in chunks {
                while let Some(piece) = splitter.next(&mut rest) {
                    read.extend_from_slice(piece.content);
                }
            }
            assert_eq!(read, b"\xEF\xBBa");
        }
    }
}
