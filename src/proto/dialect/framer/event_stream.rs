//! Events of `text/event-stream`.

use super::frame::{Frame, event};
use super::partial::{MAX_WHOLE, PartialEvent};
use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::json::JsonPosition;
use crate::proto::sse::behind_lf;
use crate::proto::sse::field::{Field, LineKind, LineState};
use crate::proto::sse::lines::{LineEnding, LinePart, Lines};

#[derive(Debug, Default)]
pub(in crate::proto::dialect) struct SseFramer {
    lines: Lines,
    line: LineState,
    /// The part of the event from earlier chunks.
    name: Vec<u8>,
    data: PartialEvent,
    has_data: bool,
    /// The incomplete line, if it is not data.
    cut: Vec<u8>,
    /// The incomplete line is data, and its beginning is in `data`.
    cut_data: bool,
    /// Lines without a field name, which may be a JSON object.
    stray: PartialEvent,
    stray_position: JsonPosition,
    /// A field has come since the last blank line.
    fields: bool,
    /// A line sets an id.
    ids: bool,
}

/// Longer texts are not names of events.
const MAX_NAME: usize = 128;

// === impl SseFramer ===

impl SseFramer {
    pub(super) fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
        let all = bytes;
        // The start of the current event.
        let mut start = 0;
        // An event within one chunk, the usual case, is not copied. Of an incomplete event, `self` has the earlier part.
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
                            found(Frame::Event(StreamEvent::new(text(name), data)), start);
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

    /// The stream has ended. An incomplete event stays.
    pub(super) fn end(&mut self, found: &mut impl FnMut(Frame<'_>)) {
        let (mut line, cut) = (self.line, std::mem::take(&mut self.cut));
        if line.end() == LineKind::Unknown && self.closes_stray(&cut) {
            self.line = line;
            self.read_stray(&cut, found);
        }
        if self.has_data && !self.data.is_cut_json() {
            let name = text(&self.name);
            self.data.finish(|data, shortened| {
                if let Some(data) = data {
                    found(Frame::Unended(StreamEvent { shortened, ..StreamEvent::new(name, data) }));
                }
            });
        }
    }

    /// Whether the JSON of lines without a field name is complete with this line.
    fn closes_stray(&self, line: &[u8]) -> bool {
        let is_first = self.stray.is_empty();
        let (mut position, json) = if is_first {
            (JsonPosition::default(), line.strip_prefix(b"error:").unwrap_or(line).trim_ascii_start())
        } else {
            (self.stray_position, line)
        };
        (!is_first || json.starts_with(b"{")) && position.close(json, 0).is_some()
    }

    /// Whether nothing of an event or a line is held.
    #[inline]
    pub(super) fn is_at_rest(&self) -> bool {
        let between_lines = self.lines.mark_settled() && !self.lines.after_cr() && self.line.at_start();
        between_lines && !self.fields && !self.has_data && self.name.is_empty() && self.stray.is_empty()
    }

    /// Whether an event would be lost if the stream ended here.
    pub(super) fn in_event(&self) -> bool {
        self.has_data || !self.name.is_empty() || self.line.in_field() || !self.stray.is_empty()
    }

    /// Whether a line has set an id.
    pub(super) const fn has_ids(&self) -> bool {
        self.ids
    }

    pub(super) const fn line_ending(&self) -> LineEnding {
        self.lines.ending()
    }

    /// Whether a line that ended this way is between events, or ends one.
    #[inline]
    fn is_between(&mut self, ended: LineKind) -> bool {
        match ended {
            LineKind::Blank => self.fields = false,
            LineKind::Comment => {}
            LineKind::Unknown | LineKind::Field(_) => self.fields = true,
        }
        !self.fields
    }

    /// Reads a piece of an incomplete line. Returns whether it ends between events.
    #[cold]
    fn read_part(&mut self, piece: &LinePart<'_>, found: &mut impl FnMut(Frame<'_>)) -> bool {
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

    /// Keeps the part of an event that continues in another line or chunk.
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

    /// Reads a line without a field of an event stream.
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
            self.stray_position = JsonPosition::default();
        }
        self.stray.push(line);
        self.stray.push(b"\n");
        if self.stray_position.close(line, 0).is_some() {
            self.stray.finish(|data, shortened| found(event("", data, shortened, true)));
        }
    }
}

/// The value of a complete line, after the name of its field and one optional space.
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
