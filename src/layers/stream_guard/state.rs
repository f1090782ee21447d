//! Follows one stream, and decides which part may be forwarded.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::config::{Config, MissingEnd, ModelId};
use crate::body::ending::Ending;
use crate::error::StreamTruncated;
use crate::proto::dialect::{Channel, End, Fact, Fault, Framing, Kind, StreamEvent, StreamReader};
use crate::proto::sse;

/// The state of a stream.
pub(super) struct StreamState {
    config: Arc<Config>,
    reader: StreamReader,
    framing: Framing,
    host: u64,
    model: ModelId,
    ending: Ending,
    /// The dialect that the ending reports.
    told_kind: Option<Kind>,
    /// The data of an incomplete event.
    partial: BytesMut,
    /// An event became too large to withhold: its rest is forwarded as it arrives.
    loose: bool,
    seen: Seen,
    failure: Option<Failure>,
    /// Whether a closing marker that proves nothing is withheld.
    withholds_markers: bool,
    /// Such a marker came.
    unproven: bool,
    /// The stream has ended, or broke off.
    over: bool,
}

/// The content of a stream so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The answer has begun.
    pub(super) started: bool,
    /// Content has come.
    pub(super) content: bool,
    /// The model has reported how the answer, or one of several choices, ended.
    pub(super) reason: bool,
    /// The complete answer has ended.
    ended: bool,
    /// Its end was the last event.
    is_last: bool,
    /// It violates the syntax of its dialect.
    pub(super) garbage: bool,
    /// The number of facts, without keep-alives.
    pub(super) events: usize,
}

/// The part of a frame that may be forwarded: complete events, up to one that reports an error.
pub(super) enum Readable {
    /// The frame as it is.
    All,
    /// This: withheld data, and a part of the frame.
    Part(Bytes),
}

/// An error that the stream reports, with its event.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) name: String,
    pub(super) data: Bytes,
    pub(super) misplaced: bool,
}

/// A larger event is not withheld until it is complete.
const MAX_PARTIAL: usize = 64 * 1024;
/// The closing marker of several dialects. An answer without an end by then was truncated.
const DONE: &[u8] = b"[DONE]";

// === impl StreamState ===

impl fmt::Debug for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamState").field("seen", &self.seen).field("over", &self.over).finish_non_exhaustive()
    }
}

impl StreamState {
    pub(super) fn new(config: Arc<Config>, reader: StreamReader, framing: Framing, host: u64, ending: Ending) -> Self {
        Self {
            model: config.reasons.id(host, None),
            config,
            reader,
            framing,
            host,
            ending,
            told_kind: None,
            partial: BytesMut::new(),
            loose: false,
            seen: Seen::default(),
            failure: None,
            withholds_markers: false,
            unproven: false,
            over: false,
        }
    }

    /// Withholds a closing marker that proves nothing: clients stop reading there, and would take the answer for
    /// complete.
    pub(super) fn withholding_markers(self) -> Self {
        Self { withholds_markers: true, ..self }
    }

    /// Reads data, and returns the part that may be forwarded.
    #[inline]
    pub(super) fn read(&mut self, data: &Bytes) -> Readable {
        let Self { reader, seen, failure, model, config, host, ending, told_kind, withholds_markers, unproven, .. } =
            self;
        // The end of the answer may be in an unread event.
        let may_be_unread = config.missing_end != MissingEnd::Error;
        let mut judges_markers = *withholds_markers && !(may_be_unread && reader.has_unread());
        let whole = reader.read_until(data, |fact, event| {
            seen.note(&fact);
            match fact {
                Fact::Failed(fault) if failure.is_none() => *failure = Some(Failure::new(fault, event)),
                Fact::Usage(usage) => ending.note_usage(usage),
                Fact::Started { model: Some(name), .. } => *model = config.reasons.id(*host, Some(name)),
                Fact::Marker => *unproven |= judges_markers && !config.believes_marker(seen.reason, *model),
                Fact::Other if event.data.is_empty() && may_be_unread => judges_markers = false,
                Fact::Other if event.data.trim_ascii() == DONE => {
                    *unproven |= judges_markers && !seen.ended && config.missing_end != MissingEnd::Allow;
                }
                _ => {}
            }
            *unproven
        });
        if reader.has_ids() {
            ending.note_ids();
        }
        if *told_kind != reader.kind() {
            *told_kind = reader.kind();
            ending.note_kind(*told_kind);
        }
        if reader.kind() == Some(Kind::OpenAiResponses) {
            ending.note_sequence(reader.next_sequence());
        }
        let all = whole == data.len() && self.partial.is_empty() && !self.loose && !data.is_empty();
        if all { Readable::All } else { Readable::Part(self.cut(data.clone(), whole)) }
    }

    /// Withholds incomplete data.
    #[cold]
    fn cut(&mut self, mut data: Bytes, whole: usize) -> Bytes {
        if whole > 0 {
            self.loose = false;
            let before = std::mem::take(&mut self.partial);
            let ready = join(before, &data.split_to(whole));
            self.partial.extend_from_slice(&data);
            return ready;
        }
        if self.failure.is_some() || self.unproven {
            // The event that reports the error, or closes the stream, began in the withheld data.
            return Bytes::new();
        }
        if self.loose {
            return data;
        }
        self.partial.extend_from_slice(&data);
        if self.partial.len() <= MAX_PARTIAL {
            return Bytes::new();
        }
        self.loose = true;
        self.partial.split().freeze()
    }

    /// Handles the end without an error. Returns the remaining data to forward, or that the stream was truncated.
    pub(super) fn end(&mut self) -> Result<Bytes, StreamTruncated> {
        self.over = true;
        let Self { reader, seen, failure, ending, .. } = self;
        reader.end(|fact, event| {
            seen.note(&fact);
            match fact {
                Fact::Failed(fault) if failure.is_none() => *failure = Some(Failure::new(fault, event)),
                Fact::Usage(usage) => ending.note_usage(usage),
                _ => {}
            }
        });
        let in_event = self.reader.in_event();
        let end = match self.reader.ended() {
            Some(end) => {
                self.config.reasons.note(self.model);
                Some(end)
            }
            _ if !self.reader.is_recognised() && !in_event => None,
            _ if self.may_lack_its_end(in_event) => Some(End::Unknown),
            _ => return Err(self.truncated()),
        };
        if let Some(end) = end {
            self.ending.set(end);
        }
        Ok(std::mem::take(&mut self.partial).freeze())
    }

    /// Whether the stream may end without a reason.
    fn may_lack_its_end(&self, in_event: bool) -> bool {
        let allowed = match self.config.missing_end {
            MissingEnd::Error => false,
            // The reason may be in an event that was too large to read.
            MissingEnd::Auto if self.reader.has_unread() => true,
            MissingEnd::Auto => self.reader.is_closed() && self.config.believes_marker(self.seen.reason, self.model),
            MissingEnd::Allow => true,
        };
        allowed && !in_event
    }

    /// Whether a marker that proves nothing closed the stream. Nothing is forwarded from there.
    pub(super) fn is_unproven(&self) -> bool {
        self.unproven
    }

    pub(super) fn truncated(&self) -> StreamTruncated {
        StreamTruncated::new(self.kind_as_framed(), self.reader.next_sequence())
    }

    /// The stream broke off.
    pub(super) fn broke_off(&mut self) {
        self.over = true;
    }

    /// The caller left before the end: it may have the complete answer.
    pub(super) fn abandoned(&mut self) {
        if !self.over && self.seen.reason && self.failure.is_none() {
            let _ = self.end();
        }
    }

    /// Whether the answer to a generation request has ended, and nothing has followed: the stream of another request may
    /// hold several.
    pub(super) fn is_over(&self) -> bool {
        self.withholds_markers && self.seen.is_last && !self.reader.in_event()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.reader.kind()
    }

    /// The dialect in whose form an error is written into the stream: Ollama's is a line, never an event.
    pub(super) fn kind_as_framed(&self) -> Option<Kind> {
        match self.framing {
            Framing::Lines => Some(Kind::Ollama),
            Framing::EventStream | Framing::Array => self.kind().filter(|kind| *kind != Kind::Ollama),
        }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(super) fn is_recognised(&self) -> bool {
        self.reader.is_recognised()
    }

    /// The number of the next event, in Responses.
    pub(super) fn next_sequence(&self) -> u64 {
        self.reader.next_sequence()
    }

    pub(super) fn line_ending(&self) -> sse::LineEnding {
        self.reader.line_ending()
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// The number of withheld bytes.
    pub(super) fn withheld(&self) -> usize {
        self.partial.len()
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

fn join(mut before: BytesMut, data: &Bytes) -> Bytes {
    if before.is_empty() {
        return data.clone();
    }
    before.extend_from_slice(data);
    before.freeze()
}

// === impl Seen ===

impl Seen {
    #[inline]
    fn note(&mut self, fact: &Fact<'_>) {
        match fact {
            Fact::Delta { text, channel, .. } => {
                self.content |= !text.is_empty() || matches!(channel, Channel::Opaque | Channel::ToolCall { .. });
            }
            Fact::Started { .. } => self.started = true,
            Fact::ChoiceEnded { .. } => self.reason = true,
            Fact::Ended(_) => (self.reason, self.ended) = (true, true),
            Fact::Unreadable => self.garbage = true,
            Fact::KeepAlive => return,
            _ => {}
        }
        self.is_last = matches!(fact, Fact::Ended(_));
        self.events = self.events.saturating_add(1);
    }
}

// === impl Failure ===

impl Failure {
    #[cold]
    fn new(fault: Fault, event: &StreamEvent<'_>) -> Self {
        let data = Bytes::copy_from_slice(event.data);
        Self { fault, name: event.name.to_owned(), data, misplaced: event.misplaced }
    }
}
