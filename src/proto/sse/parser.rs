//! Reads the events of a stream.

use super::field::{Field, LineKind, LineState};
use super::lines::Lines;
use memchr::memchr;
use std::borrow::Cow;
use std::time::Duration;

/// Room for an image in base64, which models send within one event.
const DEFAULT_LIMIT: usize = 8 * 1024 * 1024;

/// Reads events from the bytes of a stream, in chunks of any size.
///
/// It never keeps comments and unknown fields, and of an event at most a limit (default: 8 MiB): no stream can make the
/// parser hold more than five buffers of that size.
///
/// An event without its blank line at the end of a stream is discarded, as the standard says: just drop the parser.
///
/// ```
/// use tower_buttress::proto::sse::{Item, Parser};
///
/// let mut parser = Parser::new();
/// let mut bytes: &[u8] = b"id: 7\nevent: delta\ndata: hello\n\n";
/// let Some(Item::Message(message)) = parser.next(&mut bytes) else { unreachable!() };
/// assert_eq!(message.event_type, "delta");
/// assert_eq!(message.data, "hello");
/// assert_eq!(message.last_event_id, "7");
/// assert_eq!(parser.next(&mut bytes), None);
/// ```
#[derive(Clone, Debug)]
pub struct Parser {
    lines: Lines,
    line: LineState,
    limit: usize,
    /// The value of the `event` or `id` line being read.
    value: FieldValue,
    /// The value of the `retry` line being read.
    retry: Digits,
    /// The data lines, each with a LF.
    data: Vec<u8>,
    event_type: Vec<u8>,
    /// The value of the last valid `id` line.
    id: Vec<u8>,
    /// What `id` was at the last blank line.
    last_event_id: Vec<u8>,
    uncommitted_id: bool,
    too_large: bool,
    /// `data` and `event_type` are borrowed by the caller.
    dispatched: bool,
}

/// A result of a [`Parser`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item<'a> {
    /// An event was dispatched.
    Message(Message<'a>),
    /// A client that reconnects should wait this long first.
    Retry(Duration),
    /// The data, the type or the id before this blank line exceeded the limit. The event is lost; an id within the limit
    /// is kept.
    TooLarge,
}

/// An event, as it was dispatched.
///
/// Bytes that are not UTF-8 are replaced by U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// `message`, unless the stream named another.
    pub event_type: Cow<'a, str>,
    /// The lines of data, joined by LF.
    pub data: Cow<'a, str>,
    /// The id of this event, or of the last one before it with an id; otherwise empty.
    pub last_event_id: Cow<'a, str>,
}

#[derive(Clone, Debug, Default)]
struct FieldValue {
    bytes: Vec<u8>,
    has_nul: bool,
    too_long: bool,
}

/// A number, as long as there are only digits.
#[derive(Clone, Copy, Debug, Default)]
enum Digits {
    #[default]
    Empty,
    Number(u64),
    Invalid,
}

// === impl Parser ===

impl Parser {
    /// A parser at the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lines: Lines::new(),
            line: LineState::Start,
            limit: DEFAULT_LIMIT,
            value: FieldValue { bytes: Vec::new(), has_nul: false, too_long: false },
            retry: Digits::Empty,
            data: Vec::new(),
            event_type: Vec::new(),
            id: Vec::new(),
            last_event_id: Vec::new(),
            uncommitted_id: false,
            too_large: false,
            dispatched: false,
        }
    }

    /// Keeps at most this number of bytes of an event's data, of its type, and of its id.
    ///
    /// ```
    /// use tower_buttress::proto::sse::{Item, Parser};
    ///
    /// let mut parser = Parser::new().limit(4);
    /// let mut bytes: &[u8] = b"data: 12\ndata: 34\n\ndata: 1234\n\n";
    /// assert_eq!(parser.next(&mut bytes), Some(Item::TooLarge));
    /// assert!(matches!(parser.next(&mut bytes), Some(Item::Message(message)) if message.data == "1234"));
    /// ```
    #[must_use]
    pub const fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Reads `bytes` up to the next item, and advances `bytes`. `None` means that all were read.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Item<'_>> {
        if self.dispatched {
            self.forget_event();
        }
        while let Some(piece) = self.lines.next(bytes) {
            let value = self.line.read(piece.content);
            if let Some(field) = self.line.value_of() {
                self.read_value(field, value);
            }
            if !piece.ended {
                continue;
            }
            match self.line.end() {
                LineKind::Blank => {
                    self.commit_id();
                    if self.too_large {
                        self.forget_event();
                        return Some(Item::TooLarge);
                    }
                    if !self.data.is_empty() {
                        self.dispatched = true;
                        return Some(Item::Message(self.message()));
                    }
                    self.forget_event();
                }
                LineKind::Field(Field::Retry) => {
                    if let Digits::Number(milliseconds) = std::mem::take(&mut self.retry) {
                        return Some(Item::Retry(Duration::from_millis(milliseconds)));
                    }
                }
                LineKind::Field(Field::Data) => self.end_data_line(),
                LineKind::Field(Field::Event) => {
                    std::mem::swap(&mut self.event_type, &mut self.value.bytes);
                    self.too_large |= self.value.too_long;
                    self.value.clear();
                }
                LineKind::Field(Field::Id) => {
                    self.end_id_line();
                    self.value.clear();
                }
                LineKind::Comment | LineKind::Unknown => {}
            }
        }
        None
    }

    /// The last id that a blank line has committed: a reconnecting client sends it as `Last-Event-ID`.
    ///
    /// ```
    /// use tower_buttress::proto::sse::Parser;
    ///
    /// let mut parser = Parser::new();
    /// assert_eq!(parser.next(&mut &b"id: 1\n\nid: 2\n"[..]), None);
    /// assert_eq!(parser.last_event_id(), "1");
    /// ```
    #[must_use]
    pub fn last_event_id(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.last_event_id)
    }

    /// The memory of the buffers, in bytes.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.value.bytes.capacity()
            + self.data.capacity()
            + self.event_type.capacity()
            + self.id.capacity()
            + self.last_event_id.capacity()
    }

    fn read_value(&mut self, field: Field, value: &[u8]) {
        match field {
            Field::Data => {
                if !self.too_large && !push(&mut self.data, value, self.limit) {
                    self.drop_data();
                }
            }
            Field::Event | Field::Id => self.value.read(value, self.limit),
            Field::Retry => self.retry.read(value),
        }
    }

    fn end_data_line(&mut self) {
        if self.too_large {
            return;
        }
        if self.data.len() > self.limit {
            // The LF of the previous line already exceeded the limit.
            self.drop_data();
        } else {
            push(&mut self.data, b"\n", self.limit.saturating_add(1));
        }
    }

    fn drop_data(&mut self) {
        self.too_large = true;
        self.data.clear();
    }

    fn end_id_line(&mut self) {
        // "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value.
        // Otherwise, ignore the field."
        if self.value.has_nul {
            return;
        }
        if self.value.too_long {
            self.too_large = true;
            return;
        }
        std::mem::swap(&mut self.id, &mut self.value.bytes);
        self.uncommitted_id = true;
    }

    fn commit_id(&mut self) {
        if std::mem::take(&mut self.uncommitted_id) {
            self.last_event_id.clear();
            push(&mut self.last_event_id, &self.id, self.limit);
        }
    }

    fn forget_event(&mut self) {
        self.data.clear();
        self.event_type.clear();
        self.too_large = false;
        self.dispatched = false;
    }

    fn message(&self) -> Message<'_> {
        let data = self.data.strip_suffix(b"\n").unwrap_or(&self.data);
        let event_type = if self.event_type.is_empty() { b"message" } else { &self.event_type[..] };
        Message {
            event_type: String::from_utf8_lossy(event_type),
            data: String::from_utf8_lossy(data),
            last_event_id: self.last_event_id(),
        }
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Value ===

impl FieldValue {
    fn read(&mut self, value: &[u8], limit: usize) {
        self.has_nul |= memchr(0, value).is_some();
        self.too_long = self.too_long || !push(&mut self.bytes, value, limit);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.has_nul = false;
        self.too_long = false;
    }
}

// === impl Digits ===

impl Digits {
    /// A number that is too large saturates.
    fn read(&mut self, value: &[u8]) {
        for &byte in value {
            *self = match (byte, *self) {
                (b'0'..=b'9', Self::Empty) => Self::Number(u64::from(byte - b'0')),
                (b'0'..=b'9', Self::Number(n)) => {
                    Self::Number(n.saturating_mul(10).saturating_add((byte - b'0').into()))
                }
                _ => Self::Invalid,
            };
        }
    }
}

/// Appends, unless that would exceed the limit; takes no more memory than the limit.
fn push(buffer: &mut Vec<u8>, bytes: &[u8], limit: usize) -> bool {
    if bytes.len() > limit.saturating_sub(buffer.len()) {
        return false;
    }
    let needed = buffer.len() + bytes.len();
    if needed > buffer.capacity() {
        let capacity = buffer.capacity().saturating_mul(2).clamp(needed, limit.max(needed));
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
    true
}
