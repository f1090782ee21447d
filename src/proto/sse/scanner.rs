//! Follows a stream without holding bytes.

use super::field::{Field, LineKind, LineState};
use super::lines::{LineEnding, LinePart, Lines};
use memchr::{memchr, memchr2};

/// Tracks the position in an event stream at every byte.
///
/// It needs constant memory (a few bytes, no allocation) and time linear in the bytes. The state does not depend on how a
/// stream is split.
///
/// # Where something may be inserted
///
/// | Insertion | Check |
/// |---|---|
/// | a comment and a blank line, or a blank line alone | [`block_is_safe`](Self::block_is_safe) |
/// | a comment line | [`comment_is_safe`](Self::comment_is_safe) |
/// | either, before the first byte of the stream, if a later byte order mark is then removed | [`at_stream_start`](Self::at_stream_start) |
///
/// Inserted lines must end in [`ending`](Self::ending). Do not pass inserted bytes to the scanner.
///
/// ```
/// use tower_buttress::proto::sse::Scanner;
///
/// let mut scanner = Scanner::new();
/// scanner.scan(b"event: tick\ndata: hel");
/// assert!(!scanner.block_is_safe() && !scanner.comment_is_safe());
/// scanner.scan(b"lo\n");
/// assert!(!scanner.block_is_safe() && scanner.comment_is_safe());
/// scanner.scan(b"\n");
/// assert!(scanner.block_is_safe() && scanner.comment_is_safe());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanner {
    lines: Lines,
    line: LineState,
    /// The kinds of lines since the last blank line, and more: see the constants.
    seen: u8,
}

/// The content of a slice of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The number of events dispatched within the slice.
    pub events: usize,
    /// The number of blocks with a field that ended within the slice: dispatched events, and blocks without data, such as
    /// the first one of an MCP server.
    pub blocks: usize,
    /// Whether a part of a field was in the slice: of a line that is neither blank nor a comment, known or not.
    ///
    /// An event that arrives slowly shows here before it is dispatched; keep-alive comments never do.
    pub fields: bool,
}

/// Any field since the last blank line, even an unknown one.
const FIELD: u8 = 1;
const DATA: u8 = 1 << 1;
const EVENT_TYPE: u8 = 1 << 2;
/// A valid id since the last blank line.
const ID: u8 = 1 << 3;
/// A NUL in the `id` line being read.
const NUL: u8 = 1 << 4;
/// A valid id, ever.
const ANY_ID: u8 = 1 << 5;

// === impl Scanner ===

impl Scanner {
    /// A scanner at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes of the stream.
    ///
    /// ```
    /// use tower_buttress::proto::sse::Scanner;
    ///
    /// let mut scanner = Scanner::new();
    /// let progress = scanner.scan(b": keep-alive\n\ndata: 1\n\ndata: 2");
    /// assert_eq!((progress.events, progress.fields), (1, true));
    /// let progress = scanner.scan(b"\n\n: keep-alive\n\n");
    /// assert_eq!((progress.events, progress.fields), (1, true));
    /// let progress = scanner.scan(b": keep-alive\n\n");
    /// assert_eq!((progress.events, progress.fields), (0, false));
    /// ```
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Progress {
        if self.is_between_events() && self.lines.ending() == LineEnding::Lf && is_event(bytes) {
            return Progress { events: 1, blocks: 1, fields: true };
        }
        self.scan_lines(bytes)
    }

    /// Reads the next bytes of the stream, and returns only whether they contain a part of a field.
    ///
    /// Of complete events it reads only both ends, so that no byte is read twice in a stack. It does not track ids.
    #[inline]
    pub(crate) fn finds_fields(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = bytes.first() else { return false };
        self.lines.begin(*first);
        // A line with another beginning is a field.
        if matches!(first, b':' | b'\n' | b'\r') || !(self.lines.is_settled() && self.line.at_start()) {
            return self.scan_lines(bytes).fields;
        }
        self.skip_to_blank_line(bytes) || self.scan_lines(bytes).fields
    }

    /// Reads on like [`scan`](Self::scan), for a caller that needs only the position in the stream, not events or ids.
    ///
    /// If the bytes end in an empty line it reads only the last ones: earlier bytes make no difference then.
    #[inline(never)]
    pub(crate) fn skim(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first() {
            self.lines.begin(*first);
        }
        if !(self.lines.mark_settled() && self.skip_to_blank_line(bytes)) {
            self.scan_lines(bytes);
        }
    }

    /// Skips to the end of `bytes`, if that is a blank line: after one a stream is between two events. A byte order mark
    /// must no longer be possible.
    #[inline]
    fn skip_to_blank_line(&mut self, bytes: &[u8]) -> bool {
        let ending = match bytes {
            [.., b'\n', b'\n'] => LineEnding::Lf,
            [.., b'\r', b'\n', b'\r', b'\n'] => LineEnding::CrLf,
            _ => return false,
        };
        self.lines.line_ended(ending);
        self.line = LineState::default();
        self.seen &= ANY_ID;
        true
    }

    /// True for every chunk if each has complete events, as most do.
    #[inline]
    fn is_between_events(&self) -> bool {
        self.lines.is_settled() && self.line.at_start() && self.seen & !ANY_ID == 0
    }

    fn scan_lines(&mut self, mut bytes: &[u8]) -> Progress {
        #[cfg(test)]
        tests::SCANNED.with(|scanned| scanned.set(scanned.get() + bytes.len()));
        let mut progress = Progress::default();
        while let Some(piece) = self.lines.next(&mut bytes) {
            let Some(ended) = self.read(&piece) else {
                progress.fields |= self.line.in_field();
                continue;
            };
            match ended {
                LineKind::Blank => {
                    progress.events += usize::from(self.has(DATA));
                    progress.blocks += usize::from(self.has(FIELD));
                    self.seen &= ANY_ID;
                    continue;
                }
                LineKind::Comment => continue,
                LineKind::Field(Field::Data) => self.seen |= FIELD | DATA,
                LineKind::Field(Field::Event) => self.seen |= FIELD | EVENT_TYPE,
                LineKind::Field(Field::Id) if self.has(NUL) => self.seen = (self.seen & !NUL) | FIELD,
                LineKind::Field(Field::Id) => self.seen |= FIELD | ID | ANY_ID,
                LineKind::Field(Field::Retry) | LineKind::Unknown => self.seen |= FIELD,
            }
            progress.fields = true;
        }
        progress
    }

    /// Returns the kind of the line that has ended, if one has.
    #[inline]
    fn read(&mut self, piece: &LinePart<'_>) -> Option<LineKind> {
        if !piece.ended || !self.line.at_start() {
            return self.read_part(piece);
        }
        let ended = LineKind::whole(piece.content);
        if ended == LineKind::Field(Field::Id) {
            self.look_for_nul(piece.content);
        }
        Some(ended)
    }

    /// The same for an incomplete line.
    #[cold]
    fn read_part(&mut self, piece: &LinePart<'_>) -> Option<LineKind> {
        let value = self.line.read(piece.content);
        if self.line == LineState::Value(Field::Id) {
            self.look_for_nul(value);
        }
        piece.ended.then(|| self.line.end())
    }

    fn look_for_nul(&mut self, id: &[u8]) {
        if memchr(0, id).is_some() {
            self.seen |= NUL;
        }
    }

    #[inline]
    fn has(&self, what: u8) -> bool {
        self.seen & what != 0
    }

    /// Whether a comment line *and a blank line*, or a blank line alone, may be inserted here: no standard-compliant
    /// reader dispatches, commits or drops anything because of it.
    ///
    /// True at the start of a line, if no field has come since the last blank line and a byte order mark can no longer
    /// come. (By the standard a `retry` or an unknown field leaves no state that a blank line could disturb; but some
    /// readers make an empty event of it.)
    #[must_use]
    #[inline]
    pub fn block_is_safe(&self) -> bool {
        self.lines.mark_settled() && self.line.at_start() && !self.has(FIELD)
    }

    /// Whether a comment line, without a blank line, may be inserted here, if it ends in [`ending`](Self::ending).
    ///
    /// True at the start of a line, also between the lines of an event, if a byte order mark can no longer come. Not
    /// after a CR whose LF may still come: that LF would become a blank line. If the stream ends its lines in CR, the
    /// comment does too, and the LF would join it.
    #[must_use]
    #[inline]
    pub fn comment_is_safe(&self) -> bool {
        self.lines.mark_settled()
            && self.line.at_start()
            && (!self.lines.after_cr() || self.lines.ending() == LineEnding::Cr)
    }

    /// Whether no byte was read yet.
    ///
    /// Bytes inserted here come before a byte order mark that the stream may begin with. A reader would take that mark
    /// for content: remove it.
    #[must_use]
    pub fn at_stream_start(&self) -> bool {
        self.lines.untouched()
    }

    /// Whether the first bytes of the stream may still become a byte order mark.
    #[must_use]
    pub fn bom_is_possible(&self) -> bool {
        !self.lines.mark_settled()
    }

    /// Whether the position is between two lines, or before the first. A CR ends its line at once.
    #[must_use]
    pub fn at_line_start(&self) -> bool {
        self.line.at_start() && (self.lines.mark_settled() || self.lines.untouched())
    }

    /// Whether a field, even an unknown one, has ended since the last blank line.
    #[must_use]
    pub fn in_event(&self) -> bool {
        self.has(FIELD)
    }

    /// Whether data was read: the next blank line dispatches an event.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.has(DATA)
    }

    /// Whether an `event` field was read: the next blank line uses it, or drops it.
    #[must_use]
    pub fn has_event_type(&self) -> bool {
        self.has(EVENT_TYPE)
    }

    /// Whether an `id` field was read that the next blank line commits, with or without data.
    #[must_use]
    pub fn has_uncommitted_id(&self) -> bool {
        self.has(ID)
    }

    /// Whether the stream has set an id, committed or not.
    #[must_use]
    pub fn id_seen(&self) -> bool {
        self.has(ANY_ID)
    }

    /// Whether the last byte was a CR: a following LF belongs to it.
    #[must_use]
    pub fn after_cr(&self) -> bool {
        self.lines.after_cr()
    }

    /// The last known line ending of the stream.
    #[must_use]
    pub fn ending(&self) -> LineEnding {
        self.lines.ending()
    }
}

/// Whether these are the lines of one event, with at most a type before its one line of data.
#[inline]
fn is_event(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    if rest.starts_with(b"event:") {
        let Some(end) = memchr2(b'\n', b'\r', rest).filter(|end| rest[*end] == b'\n') else { return false };
        rest = &rest[end + 1..];
    }
    rest.starts_with(b"data:") && memchr2(b'\n', b'\r', rest).is_some_and(|end| rest[end..] == *b"\n\n")
}

// === impl Progress ===

impl Progress {
    /// Whether the upstream works on an event, or has finished one: it sent more than comments and blank lines.
    ///
    /// ```
    /// use tower_buttress::proto::sse::Scanner;
    ///
    /// let mut scanner = Scanner::new();
    /// assert!(!scanner.scan(b": thinking\n\n").is_activity());
    /// assert!(scanner.scan(b"data: {\"large\":").is_activity());
    /// ```
    #[must_use]
    #[inline]
    pub const fn is_activity(&self) -> bool {
        self.events > 0 || self.fields
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    thread_local! {
        /// The number of bytes that were read one by one.
        pub(super) static SCANNED: Cell<usize> = const { Cell::new(0) };
    }

    fn after(stream: &str) -> Scanner {
        let mut scanner = Scanner::new();
        scanner.scan(stream.as_bytes());
        scanner
    }

    fn events(stream: &str) -> usize {
        Scanner::new().scan(stream.as_bytes()).events
    }

    /// (block, comment)
    fn safe(stream: &str) -> (bool, bool) {
        let scanner = after(stream);
        (scanner.block_is_safe(), scanner.comment_is_safe())
    }

    #[test]
    fn a_blank_line_dispatches_what_has_data() {
        assert_eq!(events("data: a\n\n"), 1);
        assert_eq!(events("data\n\n"), 1);
        assert_eq!(events("data:\n\ndata:\n\n"), 2);
        assert_eq!(events("data: a\ndata: b\n\n"), 1);
        assert_eq!(events("data: a\r\r"), 1);
        assert_eq!(events("data: a\r\n\r\n"), 1);
    }

    #[test]
    fn without_data_nothing_is_dispatched() {
        for stream in ["", "\n\n\n", ": c\n\n", "event: a\n\n", "id: 1\n\n", "retry: 1\n\n", "x: y\n\n", "Data: a\n\n"]
        {
            assert_eq!(events(stream), 0, "{stream:?}");
        }
    }

    #[test]
    fn an_event_that_is_not_finished_is_not_dispatched() {
        assert_eq!(events("data: a"), 0);
        assert_eq!(events("data: a\n"), 0);
        assert_eq!(events("data: a\r\n"), 0);
        assert_eq!(events("data: a\n: c\n"), 0);
    }

    #[test]
    fn a_blank_line_without_data_drops_the_type_and_commits_the_id() {
        let scanner = after("event: a\nid: 1\n");
        assert!(scanner.has_event_type() && scanner.has_uncommitted_id() && !scanner.has_data());
        let scanner = after("event: a\nid: 1\n\n");
        assert!(!scanner.has_event_type() && !scanner.has_uncommitted_id() && scanner.id_seen());
    }

    #[test]
    fn an_id_with_a_nul_is_no_id() {
        assert!(!after("id: a\0b\n").has_uncommitted_id());
        assert!(!after("id: a\0b\n\n").id_seen());
        assert!(after("id: a\0b\nid: a\n").has_uncommitted_id(), "the next one is not touched by it");
        assert!(!after("id: 1").id_seen(), "not before the line has ended");
    }

    #[test]
    fn only_lines_that_are_fields_are_activity() {
        let mut scanner = Scanner::new();
        for (slice, fields) in [
            ("\u{FEFF}", false),
            (":", false),
            (" c", false),
            ("\r", false),
            ("\n", false),
            ("\n", false),
            ("d", true),
            ("ata: 1", true),
            ("\r", true),
            ("\n: c\r", false),
            ("\nx", true),
        ] {
            assert_eq!(scanner.scan(slice.as_bytes()).fields, fields, "{slice:?}");
        }
    }

    #[test]
    fn nothing_is_inserted_into_a_line() {
        for stream in [": c", "d", "data: a", "data: a\n\nx", "\u{FEFF}d"] {
            assert_eq!(safe(stream), (false, false), "{stream:?}");
        }
    }

    #[test]
    fn a_blank_line_is_inserted_only_outside_of_events() {
        for outside in ["\n", ": c\n", "data: a\n\n", "data: a\r\n\r\n", "id: 1\n\n", "retry: 1\n\n: c\n", "\u{FEFF}"] {
            assert_eq!(safe(outside), (true, true), "{outside:?}");
        }
        for inside in ["data: a\n", "event: a\n", "id: 1\n", "retry: 1\n", "x\n", "data: a\n: c\n", "data: a\r\n"] {
            assert_eq!(safe(inside), (false, true), "{inside:?}");
        }
    }

    #[test]
    fn no_comment_gets_between_a_cr_and_its_lf() {
        assert_eq!(safe("data: a\r"), (false, false));
        assert_eq!(safe("data: a\r\n\r"), (true, false), "a LF behind a whole block is a harmless blank line");
        assert_eq!(safe("data: a\rdata: b\r"), (false, true), "a comment that ends in CR takes the LF");
    }

    #[test]
    fn the_start_of_a_stream_is_safe_once_no_mark_can_come() {
        assert!(after("").at_stream_start() && after("").at_line_start() && after("").bom_is_possible());
        assert_eq!(safe(""), (false, false));
        let mut scanner = Scanner::new();
        scanner.scan(b"\xEF\xBB");
        assert!(!scanner.at_stream_start() && !scanner.at_line_start() && scanner.bom_is_possible());
        assert!(!scanner.block_is_safe() && !scanner.comment_is_safe());
        scanner.scan(b"\xBF");
        assert!(scanner.at_line_start() && !scanner.bom_is_possible() && scanner.block_is_safe());
    }

    #[test]
    fn an_event_that_is_alone_in_its_chunk_is_read_as_any() {
        for event in
            ["data: a\n\n", "data:\n\n", "event: a\ndata: b\n\n", "event: a\n\n", "data: a\r\n\n", "data: a\n\r"]
        {
            for before in ["\n", "data: 0\n\n", "id: 1\n\n", "data: 0\n", "data: 0\n\r", "data: 0\r\n\r\n"] {
                let (mut whole, mut lines) = (after(before), after(before));
                assert_eq!(whole.scan(event.as_bytes()), lines.scan_lines(event.as_bytes()), "{before:?} {event:?}");
                assert_eq!(whole, lines, "{before:?} {event:?}");
            }
        }
    }

    /// A layer inside has looked at them: the others are to look at the ends of whole events only, from the first one on.
    #[test]
    fn of_whole_events_only_the_ends_are_looked_at() {
        for events in [
            ["data: a\n\n", "data: b\n\n", ": c\ndata: d\n\n"],
            ["event: a\r\ndata: b\r\n\r\n", "data: c\r\n\r\n", "id: 1\r\n\r\n"],
            ["data: a\n\n", "data: b\r\n\r\n", "data: c\n\ndata: d\n\n"],
        ] {
            let scanned = SCANNED.get();
            let (mut idle, mut heartbeat) = (Scanner::new(), Scanner::new());
            for event in events {
                assert!(event.starts_with(':') || idle.finds_fields(event.as_bytes()));
                heartbeat.skim(event.as_bytes());
            }
            assert_eq!(SCANNED.get(), scanned, "{events:?}");
            assert!(!idle.at_stream_start() && heartbeat.block_is_safe());
        }
        let (mut scanner, scanned) = (Scanner::new(), SCANNED.get());
        assert!(scanner.finds_fields("\u{FEFF}data: a\n\n".as_bytes()));
        assert!(!scanner.finds_fields(b": c\n\n") && !scanner.finds_fields(b""));
        assert_eq!(SCANNED.get(), scanned + 12 + 5, "what may be a mark or a comment is read");
    }

    proptest! {
        /// What is skipped between the ends of whole events changes nothing that is found behind it.
        #[test]
        fn fields_are_found_as_by_reading_each_line(
            chunks in vec(select(&["\u{FEFF}", "data: a", "\n", "\n\n", "\r", "\r\n", ": c", "id: 1\n", "x\n\n", "data: a\n\n",
                "data: a\r\n\r\n", "\r\n\r\n", ": c\r\n\r\n", "data: a\n\r\n",
                ": c\n\n", "\n\n\n", "event: a\ndata: b\n\n", "data: a\r\n\n", "data: a\n\n: c\n\ndata: b\n\n"][..]), 0..24),
        ) {
            let (mut skimmed, mut read) = (Scanner::new(), Scanner::new());
            for chunk in chunks {
                prop_assert_eq!(skimmed.finds_fields(chunk.as_bytes()), read.scan_lines(chunk.as_bytes()).fields);
            }
            prop_assert_eq!(Scanner { seen: 0, ..skimmed }, Scanner { seen: 0, ..read });
        }
    }

    proptest! {
        /// Where a stream is does not depend on what came before an empty line, however the stream is cut.
        #[test]
        fn it_is_known_where_a_stream_is_as_by_reading_each_line(
            chunks in vec(select(&["\u{FEFF}", "data: a", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "\n\r\n", ": c", "id: 1\n", "x\n\n",
                "data: a\n\n", ": c\n\n", "\n\n\n", "\n\r", "data: a\r\n\r\n", "data: a\r\n\n", "data: a\n: c\n", "\r\r"][..]), 0..24),
        ) {
            let (mut skimmed, mut read) = (Scanner::new(), Scanner::new());
            for chunk in chunks {
                skimmed.skim(chunk.as_bytes());
                read.scan_lines(chunk.as_bytes());
                prop_assert_eq!(Scanner { seen: skimmed.seen & !ANY_ID, ..skimmed.clone() }, Scanner { seen: read.seen & !ANY_ID, ..read.clone() });
                prop_assert_eq!(skimmed.at_stream_start(), read.at_stream_start());
            }
        }
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Scanner>() <= 8);
    }
}
