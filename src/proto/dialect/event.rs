//! Cuts a stream into events, wherever the transport cut it.

use memchr::memchr;

use super::json::{Position, Shortener};
use crate::proto::sse::behind_lf;
use crate::proto::sse::field::{Field, LineKind, LineState};
use crate::proto::sse::lines::{LineEnding, Lines, Piece};

/// How events are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// `text/event-stream`.
    EventStream,
    /// A JSON value on each line: `application/x-ndjson`.
    Lines,
    /// The elements of one JSON array, sent as they become known: Gemini without `alt=sse`.
    Array,
}

/// One event of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The value of its `event` field. Empty where there is none, as on lines and in arrays.
    pub name: &'a str,
    /// Its data. Of data above 64 KiB, strings that are longer than 256 bytes are cut to that length.
    pub data: &'a [u8],
    /// Whether the data was cut so.
    pub shortened: bool,
    /// Whether it came in a form that a reader of event streams ignores: as the field `error`, which old builds of llama.cpp
    /// write, or as JSON without a field name, as Google's servers do.
    pub misplaced: bool,
}

/// What a [`Framer`] finds.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    Event(Event<'a>),
    /// Something that only shows that the peer is alive.
    KeepAlive,
    /// An event too large to be looked at.
    TooLarge,
}

/// Puts events together.
#[derive(Debug)]
pub(super) enum Framer {
    EventStream(Box<SseFramer>),
    Lines(PartialEvent),
    Array(ArrayFramer),
}

#[derive(Debug, Default)]
pub(super) struct SseFramer {
    lines: Lines,
    line: LineState,
    /// The event so far, as far as it came in earlier chunks.
    name: Vec<u8>,
    data: PartialEvent,
    has_data: bool,
    /// The line that is cut, where it is no data.
    cut: Vec<u8>,
    /// The line that is cut is data, and has been begun in `data`.
    cut_data: bool,
    /// Lines that are no field, and may be a JSON object.
    stray: PartialEvent,
    stray_position: Position,
    /// A field has come since the last blank line.
    fields: bool,
    /// A line sets an id.
    ids: bool,
}

#[derive(Debug, Default)]
pub(super) struct ArrayFramer {
    state: Array,
    position: Position,
    element: PartialEvent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Array {
    /// Before the opening bracket.
    #[default]
    Before,
    /// Between two elements.
    Between,
    Element,
    Closed,
    /// It is no array.
    Broken,
}

/// Bytes of an event that is not complete, bounded.
#[derive(Debug, Default)]
pub(super) struct PartialEvent {
    raw: Vec<u8>,
    /// In place of `raw`, once that became too large.
    short: Option<Box<Shortener>>,
}

/// An event that is no larger is looked at as it is.
pub(super) const MAX_WHOLE: usize = 64 * 1024;
/// The names of events are words.
const MAX_NAME: usize = 128;

// === impl Event ===

impl<'a> Event<'a> {
    /// An event, as most are: whole, and where it belongs.
    #[must_use]
    pub const fn new(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, data, shortened: false, misplaced: false }
    }
}

/// Without its data, which is what the model says.
impl std::fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("name", &self.name)
            .field("bytes", &self.data.len())
            .field("shortened", &self.shortened)
            .field("misplaced", &self.misplaced)
            .finish()
    }
}

// === impl Framer ===

impl Framer {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::EventStream => Self::EventStream(Box::default()),
            Framing::Lines => Self::Lines(PartialEvent::default()),
            Framing::Array => Self::Array(ArrayFramer::default()),
        }
    }

    /// Reads on, and shows what it finds, with where in `bytes` it began (0 where that was before). Returns how many of the bytes
    /// belong to whole events.
    pub(super) fn read(&mut self, bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
        match self {
            Self::EventStream(framer) => framer.read(bytes, found),
            Self::Lines(line) => read_lines(line, bytes, found),
            Self::Array(framer) => framer.read(bytes, found),
        }
    }

    /// The stream has ended. A line needs no line feed behind it.
    pub(super) fn end(&mut self, found: &mut impl FnMut(Frame<'_>, usize)) {
        if let Self::Lines(line) = self {
            if !line.is_empty() {
                line.finish(|data, shortened| found(line_event(data, shortened), 0));
            }
        }
    }

    /// How the lines of an event stream end that is between two events: those who know what comes next may read it.
    #[inline]
    pub(super) fn between_events(&self) -> Option<LineEnding> {
        match self {
            Self::EventStream(framer) => framer.is_at_rest().then(|| framer.lines.ending()),
            Self::Lines(_) | Self::Array(_) => None,
        }
    }

    /// Whether a line of an event stream sets an id.
    #[inline]
    pub(super) const fn has_ids(&self) -> bool {
        match self {
            Self::EventStream(framer) => framer.ids,
            Self::Lines(_) | Self::Array(_) => false,
        }
    }

    pub(super) const fn line_ending(&self) -> LineEnding {
        match self {
            Self::EventStream(framer) => framer.lines.ending(),
            Self::Lines(_) | Self::Array(_) => LineEnding::Lf,
        }
    }

    /// Whether the stream is inside of an event, which would be lost if it ended here.
    pub(super) fn in_event(&self) -> bool {
        match self {
            Self::EventStream(framer) => {
                framer.has_data || !framer.name.is_empty() || framer.line.in_field() || !framer.stray.is_empty()
            }
            Self::Lines(line) => !line.is_blank(),
            Self::Array(framer) => !matches!(framer.state, Array::Closed | Array::Broken),
        }
    }
}

// === impl SseFramer ===

impl SseFramer {
    fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
        let all = bytes;
        // Where the event that is being read begins.
        let mut start = 0;
        // An event that lies in one chunk, which is the usual case, is not copied. Of one that is cut, `self` has the part
        // that came before.
        let mut name: Option<&[u8]> = None;
        let mut data: Option<&[u8]> = None;
        while let Some(piece) = self.lines.next(&mut bytes) {
            if !piece.ended || !self.line.at_start() {
                self.hold(name.take(), data.take());
                if self.read_part(&piece, &mut |frame| found(frame, start)) {
                    start = behind_lf(all, all.len() - bytes.len());
                }
                continue;
            }
            let line = piece.content;
            let ended = LineKind::whole(line);
            match ended {
                LineKind::Field(Field::Data) => {
                    if self.has_data || data.is_some() {
                        self.hold(None, data.take());
                        self.hold(None, Some(value(line, b"data")));
                    } else {
                        data = Some(value(line, b"data"));
                    }
                }
                LineKind::Field(Field::Event) => name = Some(event_name(line)),
                LineKind::Blank => {
                    match data.take() {
                        Some(data) if !self.has_data && data.len() <= MAX_WHOLE => {
                            let name = name.unwrap_or(&self.name);
                            found(Frame::Event(Event::new(text(name), data)), start);
                            self.name.clear();
                        }
                        data => {
                            self.hold(name, data);
                            self.dispatch(&mut |frame| found(frame, start));
                        }
                    }
                    name = None;
                }
                LineKind::Comment => found(Frame::KeepAlive, start),
                LineKind::Unknown => self.read_stray(line, &mut |frame| found(frame, start)),
                LineKind::Field(Field::Id) => self.ids = true,
                LineKind::Field(Field::Retry) => {}
            }
            if self.is_between(ended) {
                start = behind_lf(all, all.len() - bytes.len());
            }
        }
        self.hold(name, data);
        start
    }

    /// Nothing is held of an event, nor of a line.
    #[inline]
    fn is_at_rest(&self) -> bool {
        let between_lines = self.lines.mark_settled() && !self.lines.after_cr() && self.line.at_start();
        between_lines && !self.fields && !self.has_data && self.name.is_empty() && self.stray.is_empty()
    }

    /// Whether a line that has ended so lies between events, or ends one.
    #[inline]
    fn is_between(&mut self, ended: LineKind) -> bool {
        match ended {
            LineKind::Blank => self.fields = false,
            LineKind::Comment => {}
            LineKind::Unknown | LineKind::Field(_) => self.fields = true,
        }
        !self.fields
    }

    /// Reads a piece of a line that was cut. Returns whether it ends between events.
    #[cold]
    fn read_part(&mut self, piece: &Piece<'_>, found: &mut impl FnMut(Frame<'_>)) -> bool {
        if self.line.at_start() {
            self.cut.clear();
            self.cut_data = false;
        }
        let value = self.line.read(piece.content);
        if self.line.value_of() == Some(Field::Data) {
            if !self.cut_data {
                self.begin_data_line();
            }
            self.data.push(value);
        } else if self.cut.len() <= MAX_WHOLE {
            self.cut.extend_from_slice(piece.content);
        }
        if !piece.ended {
            return false;
        }
        let ended = self.line.end();
        match ended {
            LineKind::Field(Field::Data) if !self.cut_data => self.begin_data_line(),
            LineKind::Field(Field::Event) => {
                let line = std::mem::take(&mut self.cut);
                self.hold(Some(event_name(&line)), None);
                self.cut = line;
            }
            LineKind::Blank => self.dispatch(found),
            LineKind::Comment => found(Frame::KeepAlive),
            LineKind::Unknown => {
                let line = std::mem::take(&mut self.cut);
                self.read_stray(&line, found);
                self.cut = line;
            }
            LineKind::Field(Field::Id) => self.ids = true,
            LineKind::Field(_) => {}
        }
        self.is_between(ended)
    }

    fn begin_data_line(&mut self) {
        if self.has_data {
            self.data.push(b"\n");
        }
        self.has_data = true;
        self.cut_data = true;
    }

    /// Keeps what was read of an event that goes on in another line or chunk.
    fn hold(&mut self, name: Option<&[u8]>, data: Option<&[u8]>) {
        if let Some(name) = name {
            self.name.clear();
            self.name.extend_from_slice(name);
        }
        if let Some(data) = data {
            self.begin_data_line();
            self.data.push(data);
        }
    }

    fn dispatch(&mut self, found: &mut impl FnMut(Frame<'_>)) {
        if std::mem::take(&mut self.has_data) {
            let name = text(&self.name);
            self.data.finish(|data, shortened| found(event(name, data, shortened, false)));
        }
        self.name.clear();
    }

    /// Reads a line that is no field of an event stream.
    #[cold]
    fn read_stray(&mut self, line: &[u8], found: &mut impl FnMut(Frame<'_>)) {
        if self.stray.is_empty() {
            if let Some(data) = line.strip_prefix(b"error:") {
                let shortened = data.len() > MAX_WHOLE;
                return found(event("error", Some(data.trim_ascii()), shortened, true));
            }
            if !line.trim_ascii_start().starts_with(b"{") {
                return;
            }
            self.stray_position = Position::default();
        }
        self.stray.push(line);
        self.stray.push(b"\n");
        if self.stray_position.close(line, 0).is_some() {
            self.stray.finish(|data, shortened| found(event("", data, shortened, true)));
        }
    }
}

/// What a whole line has behind the name of its field: one space is no part of the value.
fn value<'a>(line: &'a [u8], name: &[u8]) -> &'a [u8] {
    let value = line.get(name.len() + 1..).unwrap_or_default();
    value.strip_prefix(b" ").unwrap_or(value)
}

fn event_name(line: &[u8]) -> &[u8] {
    let name = value(line, b"event");
    name.get(..MAX_NAME).unwrap_or(name)
}

fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or("")
}

fn event<'a>(name: &'a str, data: Option<&'a [u8]>, shortened: bool, misplaced: bool) -> Frame<'a> {
    data.map_or(Frame::TooLarge, |data| Frame::Event(Event { name, data, shortened, misplaced }))
}

// === impl PartialEvent ===

impl PartialEvent {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(short) = &mut self.short {
            short.push(bytes);
        } else if self.raw.len() + bytes.len() <= MAX_WHOLE {
            self.raw.extend_from_slice(bytes);
        } else {
            let mut short = Box::<Shortener>::default();
            short.push(&std::mem::take(&mut self.raw));
            short.push(bytes);
            self.short = Some(short);
        }
    }

    fn is_empty(&self) -> bool {
        self.raw.is_empty() && self.short.is_none()
    }

    fn is_blank(&self) -> bool {
        self.raw.trim_ascii().is_empty() && self.short.is_none()
    }

    /// Shows what is held and whether its strings were cut, and forgets it.
    pub(super) fn finish(&mut self, show: impl FnOnce(Option<&[u8]>, bool)) {
        match self.short.take() {
            Some(short) => show(short.kept(), true),
            None => show(Some(&self.raw), false),
        }
        self.raw.clear();
    }
}

// === impl Framing::Lines ===

fn read_lines(held: &mut PartialEvent, bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
    let mut start = 0;
    while let Some(end) = bytes.get(start..).and_then(|rest| memchr(b'\n', rest)) {
        let line = bytes.get(start..start + end).unwrap_or_default();
        if held.is_empty() && line.len() <= MAX_WHOLE {
            found(line_event(Some(line), false), start);
        } else {
            held.push(line);
            held.finish(|data, shortened| found(line_event(data, shortened), start));
        }
        start += end + 1;
    }
    held.push(bytes.get(start..).unwrap_or_default());
    start
}

fn line_event(data: Option<&[u8]>, shortened: bool) -> Frame<'_> {
    match data.map(<[u8]>::trim_ascii) {
        Some([]) => Frame::KeepAlive,
        data => event("", data, shortened, false),
    }
}

// === impl ArrayFramer ===

impl ArrayFramer {
    fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
        let total = bytes.len();
        let mut start = 0;
        while let Some((first, rest)) = bytes.split_first() {
            match (self.state, first) {
                (Array::Element, _) => {
                    let Some(end) = self.position.close(bytes, 0) else {
                        self.element.push(bytes);
                        return start;
                    };
                    let (last, rest) = bytes.split_at(end);
                    if self.element.is_empty() && last.len() <= MAX_WHOLE {
                        found(Frame::Event(Event::new("", last)), start);
                    } else {
                        self.element.push(last);
                        self.element.finish(|data, shortened| found(event("", data, shortened, false), start));
                    }
                    (self.state, bytes) = (Array::Between, rest);
                }
                (Array::Between, b'{') => (self.state, self.position) = (Array::Element, Position::default()),
                (Array::Before, b'[') => (self.state, bytes) = (Array::Between, rest),
                (Array::Between, b']') => (self.state, bytes) = (Array::Closed, rest),
                (Array::Before | Array::Between | Array::Closed, b' ' | b'\n' | b'\r' | b'\t')
                | (Array::Between, b',') => bytes = rest,
                (Array::Broken, _) => return total,
                (Array::Before | Array::Between | Array::Closed, _) => {
                    self.state = Array::Broken;
                    found(Frame::Event(Event::new("", &[])), start);
                }
            }
            start = total - bytes.len();
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is found in the chunks: `name|data`, `!` before what is misplaced, `~` before what was cut, `:` for a keep-alive.
    fn read(framing: Framing, chunks: &[&[u8]]) -> (Vec<String>, bool) {
        let mut framer = Framer::new(framing);
        let mut seen = Vec::new();
        let mut found = |frame: Frame<'_>, _: usize| {
            seen.push(match frame {
                Frame::Event(event) => format!(
                    "{}{}{}|{}",
                    if event.misplaced { "!" } else { "" },
                    if event.shortened { "~" } else { "" },
                    event.name,
                    String::from_utf8_lossy(event.data)
                ),
                Frame::KeepAlive => ":".to_owned(),
                Frame::TooLarge => "too large".to_owned(),
            });
        };
        for chunk in chunks {
            framer.read(chunk, &mut found);
        }
        let in_event = framer.in_event();
        framer.end(&mut found);
        (seen, in_event)
    }

    #[track_caller]
    fn check(framing: Framing, stream: &str, events: &[&str], in_event: bool) {
        let expected = (events.iter().map(ToString::to_string).collect(), in_event);
        assert_eq!(read(framing, &[stream.as_bytes()]), expected, "at once");
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(read(framing, &bytes), expected, "byte by byte");
        for cut in 0..stream.len().min(500) {
            let (before, after) = stream.as_bytes().split_at(cut);
            assert_eq!(read(framing, &[before, after]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn event_streams_are_read_by_the_standard() {
        let check = |stream: &str, events: &[&str], in_event| check(Framing::EventStream, stream, events, in_event);
        check("event: a\ndata: {}\n\n", &["a|{}"], false);
        check("data: 1\n\ndata: 2\r\n\r\ndata:3\r\r", &["|1", "|2", "|3"], false);
        check("data: 1\ndata\ndata: 2\nevent: b\n\ndata: 3\n\n", &["b|1\n\n2", "|3"], false);
        check("\u{feff}: ping\n\n:\nid: 1\nretry: 5\n\ndata:\n\n", &[":", ":", "|"], false);
        check("event: a\n\ndata: 1\n\n", &["|1"], false);
        check("event: a\ndata: x\n: c\nevent:\n\n", &[":", "|x"], false);
        check("data: 1\n\ndata: 2", &["|1"], true);
        check("data: 1\n\ndata: 2\n", &["|1"], true);
        check("data: 1\n\nevent: a\n", &["|1"], true);
        check("data: 1\n\nda", &["|1"], true);
        check("data: 1\n\n: pi", &["|1"], false);
        check("data: 1\n\nid: 7\n", &["|1"], false);
    }

    #[test]
    fn errors_that_are_no_event_are_found() {
        let check = |stream: &str, events: &[&str], in_event| check(Framing::EventStream, stream, events, in_event);
        check("error: {\"code\":500}\n\ndata: 1\n\n", &["!error|{\"code\":500}", "|1"], false);
        check(
            "data: 1\n\n{\n  \"error\": {\n    \"code\": 503\n  }\n}\n\n",
            &["|1", "!|{\n  \"error\": {\n    \"code\": 503\n  }\n}\n"],
            false,
        );
        check("{\"error\":\n", &[], true);
        check("unknown: x\nx\n\ndata: 1\n\n", &["|1"], false);
    }

    #[test]
    fn lines_are_events() {
        let check = |stream: &str, events: &[&str], in_event| check(Framing::Lines, stream, events, in_event);
        check("{\"a\":1}\n{\"b\":2}\r\n\n{\"c\":3}", &["|{\"a\":1}", "|{\"b\":2}", ":", "|{\"c\":3}"], true);
        check("{\"a\":1}\n \n", &["|{\"a\":1}", ":"], false);
    }

    #[test]
    fn elements_of_an_array_are_events() {
        let check = |stream: &str, events: &[&str], in_event| check(Framing::Array, stream, events, in_event);
        check("[{\"a\":[{}]}\n,\r\n{\"b\":\"]}\"}]\n", &["|{\"a\":[{}]}", "|{\"b\":\"]}\"}"], false);
        check(" \n[]", &[], false);
        check("[{\"a\":1},", &["|{\"a\":1}"], true);
        check("[{\"a\":1", &[], true);
        check("", &[], true);
        check("{\"error\":1}", &["|"], false);
        check("[1]", &["|"], false);
    }

    #[test]
    fn large_events_are_cut_and_huge_ones_told() {
        let image = "x".repeat(MAX_WHOLE);
        for (framing, stream) in [
            (Framing::EventStream, format!("data: {{\"image\":\"{image}\",\"end\":1}}\n\ndata: 2\n\n")),
            (Framing::Lines, format!("{{\"image\":\"{image}\",\"end\":1}}\n2\n")),
            (Framing::Array, format!("[{{\"image\":\"{image}\",\"end\":1}},{{}}]")),
        ] {
            for size in [1, 7, 4096, usize::MAX] {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size.min(stream.len())).collect();
                let (events, _) = read(framing, &chunks);
                assert_eq!(events[0], format!("~|{{\"image\":\"{}\",\"end\":1}}", "x".repeat(256)));
                assert_eq!(events.len(), 2);
            }
        }
        let huge = format!("data: [{}]\n\ndata: 2\n\n", "1,".repeat(1024 * 1024));
        assert_eq!(read(Framing::EventStream, &[huge.as_bytes()]).0, ["too large", "|2"]);
    }

    #[test]
    fn what_belongs_to_whole_events_is_told() {
        let read = |framing, chunks: &[&str]| {
            let mut framer = Framer::new(framing);
            let starts = std::cell::RefCell::new(Vec::new());
            let whole: Vec<usize> = chunks
                .iter()
                .map(|chunk| framer.read(chunk.as_bytes(), &mut |_, start| starts.borrow_mut().push(start)))
                .collect();
            (whole, starts.into_inner())
        };
        assert_eq!(
            read(Framing::EventStream, &["data: 1\n\ndata: 2\n\nda", "ta: 3\n", "\n: c\nid: 1\n"]),
            (vec![18, 0, 5], vec![0, 9, 0, 1])
        );
        assert_eq!(
            read(Framing::EventStream, &["id: 1\ndata: 1\r\n", "\r", "\ndata: 2\r\r"]),
            (vec![0, 1, 10], vec![0, 0])
        );
        assert_eq!(read(Framing::Lines, &["1\n22\n3", "3\n"]), (vec![5, 2], vec![0, 2, 0]));
        assert_eq!(read(Framing::Array, &[" [{},\n{}", ",{\"a\":", "1}]"]), (vec![8, 1, 3], vec![2, 6, 0]));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_events(
            stream in r#"((data|event|id|error|x)?(: ?)?[{}"a\\]{0,3}(\n|\r|\r\n){1,2}){0,12}"#,
            size in 1..9_usize,
        ) {
            for framing in [Framing::EventStream, Framing::Lines, Framing::Array] {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                prop_assert_eq!(read(framing, &chunks), read(framing, &[stream.as_bytes()]));
            }
        }
    }
}
