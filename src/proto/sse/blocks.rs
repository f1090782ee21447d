//! Splits an event stream into pieces that can be forwarded one by one.

use std::borrow::Cow;

use memchr::memchr;

use super::field::{Field, LineKind, LineState};
use super::lines::Lines;

/// Finds where a stream may be split without splitting an event: after each event, and after each comment between two
/// events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    lines: Lines,
    line: LineState,
    /// A field has come since the last blank line.
    fields: bool,
}

/// The content of the bytes between two such places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    /// The name of the event, or empty.
    pub(crate) name: &'a [u8],
    /// The id that it sets. Empty if it clears the id.
    pub(crate) id: Option<&'a [u8]>,
    /// Its lines of data, joined by LF; `None` without data.
    pub(crate) data: Option<Cow<'a, [u8]>>,
    /// How many milliseconds a reconnecting client should wait.
    pub(crate) retry: Option<u64>,
    /// Whether it has any field, even an unknown one.
    pub(crate) has_fields: bool,
    /// Whether its first line is a comment or one of the standard's fields.
    pub(crate) begins_well: bool,
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

// === impl Blocks ===

impl Blocks {
    /// The last byte was a CR: a LF that follows belongs to it.
    pub(crate) fn is_after_cr(&self) -> bool {
        self.lines.after_cr()
    }

    /// Reads to the next place at which the stream may be split, and takes the bytes before it off `bytes`. Returns
    /// `false` if there is no further place; then all bytes were read.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> bool {
        while let Some(piece) = self.lines.next(bytes) {
            self.line.read(piece.content);
            if !piece.ended {
                continue;
            }
            match self.line.end() {
                LineKind::Blank => self.fields = false,
                LineKind::Comment => {}
                LineKind::Unknown | LineKind::Field(_) => self.fields = true,
            }
            if !self.fields {
                return true;
            }
        }
        false
    }
}

/// The end of the LF after a CR before `at`, if it has come; else `at`.
pub(crate) fn behind_lf(bytes: &[u8], at: usize) -> usize {
    let ends_in_cr = at.checked_sub(1).and_then(|last| bytes.get(last)) == Some(&b'\r');
    if ends_in_cr && bytes.get(at) == Some(&b'\n') { at + 1 } else { at }
}

/// Removes the byte order mark at the start of a stream.
pub(crate) fn without_bom(stream: &[u8]) -> &[u8] {
    stream.strip_prefix(BOM).unwrap_or(stream)
}

// === impl Block ===

impl<'a> Block<'a> {
    /// Parses complete lines.
    pub(crate) fn parse(bytes: &'a [u8]) -> Self {
        let mut block = Self::default();
        let (mut lines, mut rest, mut first) = (Lines::new(), bytes, true);
        while let Some(piece) = lines.next(&mut rest) {
            let line = piece.content;
            let kind = LineKind::whole(line);
            if std::mem::take(&mut first) {
                block.begins_well = !matches!(kind, LineKind::Unknown);
            }
            block.has_fields |= !matches!(kind, LineKind::Blank | LineKind::Comment);
            match kind {
                LineKind::Field(Field::Data) => block.push(value(line, b"data")),
                LineKind::Field(Field::Retry) => block.retry = milliseconds(value(line, b"retry")).or(block.retry),
                LineKind::Field(Field::Event) => block.name = value(line, b"event"),
                LineKind::Field(Field::Id) => {
                    let id = value(line, b"id");
                    if memchr(0, id).is_none() {
                        block.id = Some(id);
                    }
                }
                _ => {}
            }
        }
        block
    }

    fn push(&mut self, line: &'a [u8]) {
        self.data = Some(match self.data.take() {
            None => Cow::Borrowed(line),
            Some(before) => {
                let mut joined = before.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(line);
                Cow::Owned(joined)
            }
        });
    }
}

/// The value of a complete line, without one space after the colon.
fn value<'a>(line: &'a [u8], name: &[u8]) -> &'a [u8] {
    let value = line.get(name.len() + 1..).unwrap_or_default();
    value.strip_prefix(b" ").unwrap_or(value)
}

/// A number of nothing but digits.
fn milliseconds(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pieces of a stream that comes in chunks of this size.
    fn pieces(stream: &[u8], size: usize) -> Vec<Vec<u8>> {
        let (mut blocks, mut pieces, mut held) = (Blocks::default(), Vec::new(), Vec::new());
        for chunk in stream.chunks(size) {
            let (mut rest, mut start) = (chunk, 0);
            while blocks.next(&mut rest) {
                let end = chunk.len() - rest.len();
                held.extend_from_slice(&chunk[start..end]);
                pieces.push(std::mem::take(&mut held));
                start = end;
            }
            held.extend_from_slice(&chunk[start..]);
        }
        pieces
    }

    #[test]
    fn events_and_comments_between_them_are_pieces() {
        let stream = b"id: 1\ndata: a\n\n: ping\n\ndata: b\n: inside\ndata: c\n\ndata: d\n";
        let texts: Vec<String> =
            pieces(stream, 100).into_iter().map(|piece| String::from_utf8(piece).unwrap()).collect();
        assert_eq!(texts, ["id: 1\ndata: a\n\n", ": ping\n", "\n", "data: b\n: inside\ndata: c\n\n"]);
    }

    #[test]
    fn a_block_tells_its_id_and_its_data() {
        let block = Block::parse(b"id: 7\nevent: x\ndata: a\ndata:b\n\n");
        assert_eq!(block.name, b"x");
        assert_eq!((block.id, block.data.as_deref()), (Some(&b"7"[..]), Some(&b"a\nb"[..])));
        assert_eq!(Block::parse(b"id\ndata: a\n\n").id, Some(&b""[..]));
        assert_eq!(Block::parse(b"id: 1\0\ndata: a\n\n").id, None);
        assert_eq!(Block::parse(b"\xEF\xBB\xBFid: 1\r\n\r\n").id, Some(&b"1"[..]));
        let retries = [&b"retry: 3000\n\n"[..], b"retry: 3s\n\n", b"retry:\n\n"].map(|block| Block::parse(block).retry);
        assert_eq!(retries, [Some(3000), None, None]);
        let comment = Block::parse(b": ping\n");
        assert!(!comment.has_fields && comment.begins_well && comment.data.is_none());
        assert!(!Block::parse(b"oken\"}\n\n").begins_well);
    }

    #[test]
    fn the_lf_of_a_crlf_belongs_to_its_line() {
        let places = [(0, 0), (1, 1), (2, 3), (3, 3), (4, 4)];
        assert_eq!(places.map(|(at, _)| behind_lf(b"a\r\nb", at)), places.map(|(_, behind)| behind));
        assert_eq!((behind_lf(b"a\r", 2), behind_lf(b"\n", 0)), (2, 0));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_pieces(
            stream in r"((data|id|x)?(: ?)?[a1]{0,3}(\n|\r\n){1,2}){0,12}",
            size in 1..9_usize,
        ) {
            prop_assert_eq!(pieces(stream.as_bytes(), size), pieces(stream.as_bytes(), usize::MAX));
        }
    }
}
