//! Event ids that count the bytes read, so that a reader can continue after a break.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::field::{LineKind, LineState};
use super::lines::{LinePart, Lines};

/// The id of an event: its stream, and the number of that stream's bytes before the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) stream: u64,
    pub(crate) offset: u64,
}

/// Adds an id to every event of a stream, as its last line. Offsets count the bytes of the original stream.
///
/// Other blocks get no id: a block of comments loses the blank line after it, and so does a blank line that ends nothing.
/// Readers that keep the last id (openai for Python) would make an empty event of such a line, which is not JSON.
/// Comments stay.
///
/// An `id` of the upstream's stays too, without effect: of two ids, readers take the last.
#[derive(Clone, Debug)]
pub(crate) struct EventIds {
    stream: u64,
    lines: Lines,
    line: LineState,
    /// The number of bytes read.
    read: u64,
    /// A field has ended since the last blank line.
    in_event: bool,
    /// The offset after the last event with an id.
    border: u64,
    /// The last byte was the CR of a dropped line: a following LF is dropped too.
    drops_lf: bool,
    /// Something was written: the next byte is not the first for the reader.
    has_written: bool,
}

/// A change to the bytes.
enum Edit {
    /// Insert an id with this offset before the byte at this place.
    Insert { at: usize, offset: u64 },
    /// Drop the byte at this place.
    Drop { at: usize },
}

/// The start of a byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xEF";

// === impl EventId ===

impl EventId {
    /// Reads an id that [`EventIds`] has written.
    pub(crate) fn parse(id: &[u8]) -> Option<Self> {
        let (stream, offset) = id.split_at_checked(16)?;
        let offset = offset.strip_prefix(b".")?;
        let is_hex = stream.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_number = offset.iter().all(u8::is_ascii_digit) && (offset == b"0" || !offset.starts_with(b"0"));
        if !is_hex || !is_number {
            return None;
        }
        let stream = u64::from_str_radix(std::str::from_utf8(stream).ok()?, 16).ok()?;
        let offset = std::str::from_utf8(offset).ok()?.parse().ok()?;
        Some(Self { stream, offset })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.stream, self.offset)
    }
}

// === impl EventIds ===

impl EventIds {
    pub(crate) fn new(stream: u64) -> Self {
        let (lines, line) = (Lines::new(), LineState::default());
        Self { stream, lines, line, read: 0, in_event: false, border: 0, drops_lf: false, has_written: false }
    }

    /// Returns the next bytes of the stream, with the ids of the events that end in them.
    pub(crate) fn write(&mut self, data: &Bytes) -> Bytes {
        let is_its_own = self.read == 0 && data.starts_with(BYTE_ORDER_MARK);
        let written = self.write_ids(data);
        if self.has_written || written.is_empty() {
            return written;
        }
        self.has_written = true;
        if is_its_own || !written.starts_with(BYTE_ORDER_MARK) {
            return written;
        }
        // In mid-stream it belongs to a name; at its start readers drop it: an empty comment comes before.
        [b":\n", &written[..]].concat().into()
    }

    fn write_ids(&mut self, data: &Bytes) -> Bytes {
        let (mut out, mut copied) = (BytesMut::new(), 0);
        let stream = self.stream;
        self.scan(data, |edit| {
            let (at, resume_at) = match edit {
                Edit::Insert { at, .. } => (at, at),
                Edit::Drop { at } => (at, at + 1),
            };
            if out.is_empty() {
                out.reserve(data.len() + ROOM);
            }
            out.extend_from_slice(data.get(copied..at).unwrap_or_default());
            copied = resume_at;
            if let Edit::Insert { offset, .. } = edit {
                out.extend_from_slice(format!("id: {}\n", EventId { stream, offset }).as_bytes());
            }
        });
        if copied == 0 && out.is_empty() {
            return data.clone();
        }
        out.extend_from_slice(data.get(copied..).unwrap_or_default());
        out.freeze()
    }

    /// Skips the bytes that a reader has, up to `offset`. Returns the part of `data` after that; `None`: nothing yet.
    pub(crate) fn skip(&mut self, data: &Bytes, offset: u64) -> Option<Bytes> {
        let left = usize::try_from(offset.saturating_sub(self.read)).unwrap_or(usize::MAX);
        let read = data.slice(..left.min(data.len()));
        self.pass(&read);
        if self.read < offset {
            return None;
        }
        // The event may have ended in a CR, whose LF is not a line of its own.
        self.drops_lf = self.lines.after_cr();
        Some(data.slice(read.len()..))
    }

    /// Whether the next byte follows an event, or is the first: a reader can continue there.
    pub(crate) fn is_at_border(&self) -> bool {
        self.read == self.border
    }

    /// Reads `data` without writing.
    pub(crate) fn pass(&mut self, data: &[u8]) {
        self.scan(data, |_| {});
    }

    /// The number of bytes up to the end of the last event.
    pub(crate) fn last_border(&self) -> u64 {
        self.border
    }

    fn scan(&mut self, data: &[u8], mut edit: impl FnMut(Edit)) {
        if let (true, Some(first)) = (self.drops_lf, data.first()) {
            self.drops_lf = false;
            if *first == b'\n' {
                edit(Edit::Drop { at: 0 });
            }
        }
        let mut rest = data;
        while let Some(piece) = self.lines.next(&mut rest) {
            let after = data.len() - rest.len();
            match self.read_piece(&piece) {
                Some(LineKind::Blank) if self.in_event => {
                    self.in_event = false;
                    self.border = self.read + after as u64;
                    edit(Edit::Insert { at: after - 1, offset: self.border });
                }
                Some(LineKind::Blank) => {
                    edit(Edit::Drop { at: after - 1 });
                    if data.get(after - 1) == Some(&b'\r') {
                        match data.get(after) {
                            Some(b'\n') => edit(Edit::Drop { at: after }),
                            Some(_) => {}
                            None => self.drops_lf = true,
                        }
                    }
                }
                Some(LineKind::Comment) | None => {}
                Some(LineKind::Field(_) | LineKind::Unknown) => self.in_event = true,
            }
        }
        self.read += data.len() as u64;
    }

    /// What the line is that has ended, if one has.
    fn read_piece(&mut self, piece: &LinePart<'_>) -> Option<LineKind> {
        if piece.ended && self.line.at_start() {
            return Some(LineKind::whole(piece.content));
        }
        self.line.read(piece.content);
        piece.ended.then(|| self.line.end())
    }
}

/// For the ids of a few events.
const ROOM: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Item, Parser};
    use super::*;

    fn written(stream: &str) -> String {
        String::from_utf8(EventIds::new(0xab).write(&Bytes::from(stream.to_owned())).to_vec()).unwrap()
    }

    /// The events of a stream, each with its id.
    fn events(stream: &[u8]) -> Vec<(String, String, String)> {
        let (mut parser, mut rest, mut events) = (Parser::new(), stream, Vec::new());
        while let Some(item) = parser.next(&mut rest) {
            if let Item::Message(message) = item {
                let id = message.last_event_id.to_string();
                events.push((message.event_type.into_owned(), message.data.into_owned(), id));
            }
        }
        events
    }

    #[test]
    fn every_event_has_an_id_as_its_last_line() {
        for (stream, expected) in [
            ("data: x\n\n", "data: x\nid: 00000000000000ab.9\n\n"),
            ("data: x\r\n\r\n", "data: x\r\nid: 00000000000000ab.10\n\r\n"),
            ("data: x\r\rdata", "data: x\rid: 00000000000000ab.9\n\rdata"),
            ("event: a\ndata\n\n", "event: a\ndata\nid: 00000000000000ab.15\n\n"),
            // An id of the upstream's own does not count.
            ("id: 7\ndata: x\n\n", "id: 7\ndata: x\nid: 00000000000000ab.15\n\n"),
            ("data: x\n", "data: x\n"),
            ("", ""),
        ] {
            assert_eq!(written(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn what_is_no_event_has_no_blank_line_behind_it() {
        for (stream, expected) in [
            (": a\n\n", ": a\n"),
            (": a\r\n\r\n: b\r\n", ": a\r\n: b\r\n"),
            ("\n\n: a\r\r: b\n", ": a\r: b\n"),
            ("data: x\n\n\n", "data: x\nid: 00000000000000ab.9\n\n"),
        ] {
            assert_eq!(written(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn an_id_is_read_as_it_was_written_and_in_no_other_form() {
        for id in [EventId { stream: 0, offset: 0 }, EventId { stream: u64::MAX, offset: u64::MAX }] {
            assert_eq!(EventId::parse(id.to_string().as_bytes()), Some(id));
        }
        for bad in [
            "",
            ".",
            "00000000000000ab",
            "00000000000000ab.",
            "00000000000000ab.-1",
            "00000000000000ab.+1",
            "00000000000000ab.01",
            "00000000000000ab.1 ",
            "00000000000000AB.1",
            "0000000000000ab.1",
            "+000000000000000.1",
            "00000000000000ab.18446744073709551616",
            "0000000000000\u{e4}b.1",
        ] {
            assert_eq!(EventId::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            4 => Just("data: x"),
            1 => Just("data"),
            1 => Just("event: e"),
            1 => Just("id: theirs"),
            2 => Just(": comment"),
            1 => Just("\u{FEFF}"),
            1 => Just("\u{FEFF}data: x"),
            6 => Just(""),
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        prop::collection::vec((line, end), 0..24)
            .prop_map(|lines| lines.into_iter().flat_map(|(line, end)| [line, end]).collect::<String>().into_bytes())
    }

    #[test]
    fn what_is_written_takes_little_more_memory_than_what_was_read() {
        let written = EventIds::new(1).write(&Bytes::from(format!("data: {}\n\n", "a".repeat(10_000))));
        assert!(written.try_into_mut().unwrap().capacity() < 11_000);
    }

    proptest! {
        /// For any stream and chunks: the events and their data stay equal, and a reader that continues after any of them
        /// reads the others.
        #[test]
        fn a_reader_can_go_on_behind_any_event(stream in stream(), cuts in prop::collection::vec(0_usize..9, 0..40)) {
            let mut chunks = Vec::new();
            let mut rest = Bytes::from(stream.clone());
            for cut in cuts {
                chunks.push(rest.split_to(cut.min(rest.len())));
            }
            chunks.push(rest);

            let mut ids = EventIds::new(7);
            let whole: Vec<u8> = chunks.iter().flat_map(|chunk| ids.write(chunk)).collect();
            prop_assert_eq!(&whole, &EventIds::new(7).write(&Bytes::from(stream.clone())).to_vec(), "cuts make no difference");
            let all = events(&whole);
            let plain: Vec<_> = events(&stream).into_iter().map(|(name, data, _)| (name, data)).collect();
            prop_assert_eq!(all.iter().map(|(name, data, _)| (name.clone(), data.clone())).collect::<Vec<_>>(), plain);

            for (seen, (_, _, id)) in all.iter().enumerate() {
                let id = EventId::parse(id.as_bytes()).expect("an id of ours");
                let mut ids = EventIds::new(7);
                let mut rest = Vec::new();
                let mut is_behind = false;
                for chunk in &chunks {
                    if is_behind {
                        rest.extend_from_slice(&ids.write(chunk));
                    } else if let Some(behind) = ids.skip(chunk, id.offset) {
                        prop_assert!(ids.is_at_border());
                        is_behind = true;
                        rest.extend_from_slice(&ids.write(&behind));
                    }
                }
                prop_assert!(is_behind);
                prop_assert_eq!(&events(&rest)[..], &all[seen + 1..]);
            }
        }

        /// A reader can continue at no other place.
        #[test]
        fn only_what_follows_an_event_is_a_border(stream in stream()) {
            let data = Bytes::from(stream);
            let mut ids = EventIds::new(7);
            let whole = ids.write(&data);
            let text = String::from_utf8_lossy(&whole);
            for offset in 1..=data.len() as u64 {
                let mut ids = EventIds::new(7);
                prop_assert!(ids.skip(&data, offset).is_some());
                let is_given = text.contains(&format!("id: {}\n", EventId { stream: 7, offset }));
                prop_assert_eq!(ids.is_at_border(), is_given, "{}", offset);
            }
        }

        #[test]
        fn any_id_is_read_without_a_panic(id in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(read) = EventId::parse(&id) {
                prop_assert_eq!(read.to_string().into_bytes(), id);
            }
        }
    }

    #[test]
    fn an_id_is_written_as_stream_and_offset() {
        let id = EventId { stream: 0xAB, offset: 12 };
        assert_eq!(id.to_string(), "00000000000000ab.12");
    }
}
