//! Which bytes keep a silent event stream alive, and where they may stand in it.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::InvalidConfig;
use crate::proto::dialect::{KeepAlive, Kind};
use crate::proto::sse::{LineEnding, Scanner};

/// The bytes of a heartbeat. In the extensions of a request or a response, it sets the frame of that call.
///
/// A standard-compliant reader ignores each of them. Real clients differ, which the default takes into account. The line
/// endings are those of the stream.
///
/// Once the stream has set an `id`, a blank line changes the position from which some readers resume, or gives them an
/// empty event. From then on the layer sends comments without a blank line, whatever the frame, and only where that frame
/// would be sent.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum HeartbeatFrame {
    /// The frame that the official clients of the request's [dialect](crate::proto::dialect::Kind) accept: a bare newline
    /// for Gemini's `generateContent`, none for Cohere, a comment for all others. Before there is an answer, none for a
    /// path that belongs to no dialect.
    #[default]
    ByDialect,
    /// `: keepalive` and a blank line. Sent only between events.
    Comment,
    /// `: keepalive`. Sent also between the lines of an event.
    CommentNoBlank,
    /// A blank line, for readers that do not know comments. Sent only between events.
    BareNewline,
    /// Comments of your own: see [`HeartbeatFrame::custom`].
    Custom(CustomFrame),
}

/// Comments and blank lines, checked to contain nothing else.
#[derive(Clone, Debug)]
pub struct CustomFrame(Arc<Rendered>);

#[derive(Debug)]
struct Rendered {
    has_blank: bool,
    /// For each line ending: the whole frame, and its comments alone.
    lf: [Bytes; 2],
    crlf: [Bytes; 2],
    cr: [Bytes; 2],
}

// === impl HeartbeatFrame ===

impl HeartbeatFrame {
    /// Returns a frame of your own: lines that begin with a colon, and blank lines. A frame with a blank line is sent
    /// only between events.
    ///
    /// ```
    /// use tower_buttress::HeartbeatFrame;
    ///
    /// assert!(HeartbeatFrame::custom(": thinking\n\n").is_ok());
    /// assert!(HeartbeatFrame::custom(": no end of line").is_err());
    /// assert!(HeartbeatFrame::custom("event: ping\ndata: {}\n\n").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// If a line is neither blank nor a comment, if there is no comment, if the last line has no line ending, or if the
    /// bytes are not UTF-8.
    pub fn custom(bytes: impl AsRef<[u8]>) -> Result<Self, InvalidConfig> {
        CustomFrame::new(bytes.as_ref()).map(Self::Custom)
    }

    /// The frame for an event stream of this dialect. `None`: every frame breaks some client.
    pub(crate) fn of_event_stream(&self, kind: Option<Kind>) -> Option<Self> {
        match (self, kind) {
            (Self::ByDialect, None) => Some(Self::Comment),
            (Self::ByDialect, Some(kind)) => match kind.keep_alive() {
                KeepAlive::Comment => Some(Self::Comment),
                KeepAlive::BareNewline => Some(Self::BareNewline),
                KeepAlive::Nothing => None,
            },
            (frame, _) => Some(frame.clone()),
        }
    }

    /// Whether heartbeats may go out before the answer is known.
    pub(crate) fn before_headers(&self, kind: Option<Kind>) -> bool {
        match self {
            Self::ByDialect => kind.is_some_and(|kind| kind.keep_alive() != KeepAlive::Nothing),
            _ => true,
        }
    }

    /// Whether a frame may be inserted at this position. `has_ids`: whether the stream has set an id, or may have.
    #[inline]
    pub(crate) fn may_be_at(&self, scanner: &Scanner, has_ids: impl FnOnce() -> bool) -> bool {
        // A frame that loses its blank line after an id stays outside events.
        let safe = if self.has_blank() {
            scanner.block_is_safe() && (scanner.comment_is_safe() || !has_ids())
        } else {
            scanner.comment_is_safe()
        };
        safe || scanner.at_stream_start()
    }

    #[inline]
    fn has_blank(&self) -> bool {
        match self {
            Self::ByDialect | Self::Comment | Self::BareNewline => true,
            Self::CommentNoBlank => false,
            Self::Custom(CustomFrame(rendered)) => rendered.has_blank,
        }
    }

    /// Returns the bytes of a heartbeat for this position.
    pub(crate) fn render(&self, ending: LineEnding, has_ids: bool) -> Bytes {
        let bytes = match self {
            Self::Custom(CustomFrame(rendered)) => return rendered.of(ending)[usize::from(has_ids)].clone(),
            Self::ByDialect | Self::Comment if !has_ids => match ending {
                LineEnding::Lf => ": keepalive\n\n",
                LineEnding::CrLf => ": keepalive\r\n\r\n",
                LineEnding::Cr => ": keepalive\r\r",
            },
            Self::BareNewline if !has_ids => ending.as_str(),
            _ => match ending {
                LineEnding::Lf => ": keepalive\n",
                LineEnding::CrLf => ": keepalive\r\n",
                LineEnding::Cr => ": keepalive\r",
            },
        };
        Bytes::from_static(bytes.as_bytes())
    }
}

// === impl CustomFrame ===

impl CustomFrame {
    fn new(bytes: &[u8]) -> Result<Self, InvalidConfig> {
        let invalid = |reason| Err(InvalidConfig::new("heartbeat frame", reason));
        let Ok(text) = std::str::from_utf8(bytes) else { return invalid("it is not UTF-8") };
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        if !text.ends_with('\n') {
            return invalid("the last line has no end");
        }
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        if !lines.iter().all(|line| line.is_empty() || line.starts_with(':')) {
            return invalid("a line is neither a comment nor blank");
        }
        if lines.iter().all(|line| line.is_empty()) {
            return invalid("there is no comment in it");
        }
        let of = |ending: LineEnding| {
            let whole = lines.iter().flat_map(|line| [line, ending.as_str()]);
            let comments = lines.iter().filter(|line| !line.is_empty()).flat_map(|line| [line, ending.as_str()]);
            [whole.collect::<String>().into(), comments.collect::<String>().into()]
        };
        let has_blank = lines.contains(&"");
        Ok(Self(Arc::new(Rendered {
            has_blank,
            lf: of(LineEnding::Lf),
            crlf: of(LineEnding::CrLf),
            cr: of(LineEnding::Cr),
        })))
    }
}

// === impl Rendered ===

impl Rendered {
    fn of(&self, ending: LineEnding) -> &[Bytes; 2] {
        match ending {
            LineEnding::Lf => &self.lf,
            LineEnding::CrLf => &self.crlf,
            LineEnding::Cr => &self.cr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(frame: &HeartbeatFrame, stream: &str) -> Option<Bytes> {
        let mut scanner = Scanner::new();
        scanner.scan(stream.as_bytes());
        frame.may_be_at(&scanner, || scanner.id_seen()).then(|| frame.render(scanner.ending(), scanner.id_seen()))
    }

    #[test]
    fn lines_end_as_those_of_the_stream_do() {
        let custom = HeartbeatFrame::custom(": a\r\n: b\n\n").unwrap();
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("data: x{end}{end}:{end}");
            // A CR alone is recognised as the line ending only at the next line, which must then be blank.
            let stream = if end == "\r" { format!("{stream}{end}") } else { stream };
            assert_eq!(at(&HeartbeatFrame::Comment, &stream).unwrap(), format!(": keepalive{end}{end}"));
            assert_eq!(at(&HeartbeatFrame::CommentNoBlank, &stream).unwrap(), format!(": keepalive{end}"));
            assert_eq!(at(&HeartbeatFrame::BareNewline, &stream).unwrap(), end);
            assert_eq!(at(&custom, &stream).unwrap(), format!(": a{end}: b{end}{end}"));
        }
    }

    #[test]
    fn the_default_is_what_the_clients_of_the_dialect_accept() {
        let of = |kind| HeartbeatFrame::ByDialect.of_event_stream(kind).map(|frame| at(&frame, "data: x\n\n").unwrap());
        let comment = Some(Bytes::from_static(b": keepalive\n\n"));
        for kind in [None, Some(Kind::OpenAiChat), Some(Kind::OpenAiResponses), Some(Kind::Anthropic)] {
            assert_eq!(of(kind), comment, "{kind:?}");
        }
        assert_eq!(of(Some(Kind::Gemini)).unwrap(), "\n");
        assert_eq!(of(Some(Kind::Cohere)), None);
    }

    #[test]
    fn no_frame_ends_a_block_that_only_holds_retry() {
        // A lone `retry:` block makes the Python clients of OpenAI and Google fail.
        let custom = HeartbeatFrame::custom(": a\n\n").unwrap();
        for frame in [HeartbeatFrame::Comment, HeartbeatFrame::BareNewline, custom] {
            assert!(at(&frame, "retry: 1500\n").is_none());
            assert!(at(&frame, "data: x\n\nretry: 1500\n: c\n").is_none());
        }
        assert_eq!(at(&HeartbeatFrame::CommentNoBlank, "retry: 1500\n").unwrap(), ": keepalive\n");
    }

    #[test]
    fn once_an_id_was_seen_there_is_no_blank_line() {
        let custom = HeartbeatFrame::custom("\n: a\n\n: b\n\n").unwrap();
        for frame in [HeartbeatFrame::Comment, HeartbeatFrame::CommentNoBlank, HeartbeatFrame::BareNewline] {
            assert_eq!(at(&frame, "id: 1\ndata: x\n\n").unwrap(), ": keepalive\n");
        }
        assert_eq!(at(&custom, "id: 1\ndata: x\n\n").unwrap(), ": a\n: b\n");
        for frame in [HeartbeatFrame::Comment, HeartbeatFrame::BareNewline, custom] {
            assert!(at(&frame, "id: 1\n").is_none(), "nor is it sent into an event");
            assert!(at(&frame, "id: 1\r\n\r").is_none(), "a LF that follows would be a blank line of its own");
        }
        assert_eq!(at(&HeartbeatFrame::CommentNoBlank, "id: 1\n").unwrap(), ": keepalive\n");
    }

    #[test]
    fn a_blank_line_waits_for_the_end_of_the_event() {
        let custom = HeartbeatFrame::custom(": a\n").unwrap();
        for frame in [HeartbeatFrame::Comment, HeartbeatFrame::BareNewline] {
            assert!(at(&frame, "data: x\n").is_none());
        }
        for frame in [HeartbeatFrame::CommentNoBlank, custom] {
            assert!(at(&frame, "data: x\n").is_some());
            assert!(at(&frame, "data: x").is_none());
        }
    }

    #[test]
    fn a_custom_frame_holds_only_comments_and_blank_lines() {
        for good in [":\n", ": a\r", "\r\n: a\r\n\r\n", ": data: x\n"] {
            assert!(HeartbeatFrame::custom(good).is_ok(), "{good:?}");
        }
        for bad in ["", "\n", ": a", ": a\nb", "data: x\n\n", " : a\n", "\u{FEFF}: a\n: b\n", "id\n", ": a\nretry: 1\n"]
        {
            assert!(HeartbeatFrame::custom(bad).is_err(), "{bad:?}");
        }
    }
}
