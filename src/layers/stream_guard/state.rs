//! Follows one stream, and decides what of it may be handed on.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::config::{Config, MissingEnd, ModelId};
use crate::body::ending::Ending;
use crate::error::StreamTruncated;
use crate::proto::dialect::{Channel, End, Event, Fact, Fault, Framing, Kind, Reader};
use crate::proto::sse;

/// What is known of a stream.
pub(super) struct StreamState {
    config: Arc<Config>,
    reader: Reader,
    framing: Framing,
    host: u64,
    model: ModelId,
    ending: Ending,
    /// The dialect that the ending tells of.
    told_kind: Option<Kind>,
    /// What was read of an event that is not whole yet.
    partial: BytesMut,
    /// An event became too large to be withheld: the rest of it is handed on as it comes.
    loose: bool,
    seen: Seen,
    failure: Option<Failure>,
    /// Whether a closing marker is withheld that proves nothing.
    withholds_markers: bool,
    /// One was.
    unproven: bool,
    /// The stream has come to its end, or broke off.
    over: bool,
}

/// What a stream has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The answer has begun.
    pub(super) started: bool,
    /// Something of it has come.
    pub(super) content: bool,
    /// The model said how it ended, or how one of several choices did.
    pub(super) reason: bool,
    /// All of it has ended.
    ended: bool,
    /// It is not in the syntax of its dialect.
    pub(super) garbage: bool,
    /// Things said, but for signs of life.
    pub(super) events: usize,
}

/// What of a frame may be handed on: whole events, up to one that tells of an error.
pub(super) enum Readable {
    /// The frame as it is.
    All,
    /// This: what was withheld, and a part of the frame.
    Part(Bytes),
}

/// An error that the stream tells of, with the event that does.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) name: String,
    pub(super) data: Bytes,
    pub(super) misplaced: bool,
}

/// An event that is larger is not withheld until it is whole.
const MAX_PARTIAL: usize = 64 * 1024;
/// Closes a stream in several dialects. What has not ended by then was cut.
const DONE: &[u8] = b"[DONE]";

// === impl StreamState ===

impl fmt::Debug for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamState").field("seen", &self.seen).field("over", &self.over).finish_non_exhaustive()
    }
}

impl StreamState {
    pub(super) fn new(config: Arc<Config>, reader: Reader, framing: Framing, host: u64, ending: Ending) -> Self {
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

    /// Withholds a closing marker that proves nothing: clients read no further than that, and would take the answer for whole.
    pub(super) fn withholding_markers(self) -> Self {
        Self { withholds_markers: true, ..self }
    }

    /// Reads on, and says what may be handed on.
    #[inline]
    pub(super) fn read(&mut self, data: &Bytes) -> Readable {
        let Self { reader, seen, failure, model, config, host, ending, told_kind, withholds_markers, unproven, .. } =
            self;
        // How the answer ended may be in what was not read.
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

    /// Withholds what is not whole.
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
            // The event that tells of the error, or closes the stream, began in what is withheld.
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

    /// The stream has ended cleanly. Returns what is still to be handed on, or says that it was cut.
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

    /// Whether the stream may end without a word of how the answer ended.
    fn may_lack_its_end(&self, in_event: bool) -> bool {
        let allowed = match self.config.missing_end {
            MissingEnd::Error => false,
            // What the answer ended with may be in an event that was too large to be looked at.
            MissingEnd::Auto if self.reader.has_unread() => true,
            MissingEnd::Auto => self.reader.is_closed() && self.config.believes_marker(self.seen.reason, self.model),
            MissingEnd::Allow => true,
        };
        allowed && !in_event
    }

    /// Whether the stream was closed by a marker that proves nothing. Nothing of it is handed on from there.
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

    /// The caller went away, if it is not over: what it has may be the whole answer.
    pub(super) fn abandoned(&mut self) {
        if !self.over && self.seen.reason && self.failure.is_none() {
            let _ = self.end();
        }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.reader.kind()
    }

    /// The dialect in whose form an error is written into the stream: a line is Ollama's, and an event never is.
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

    /// The number of the event that comes next, in Responses.
    pub(super) fn next_sequence(&self) -> u64 {
        self.reader.next_sequence()
    }

    pub(super) fn line_ending(&self) -> sse::LineEnding {
        self.reader.line_ending()
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// How many bytes are withheld.
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
        self.events = self.events.saturating_add(1);
    }
}

// === impl Failure ===

impl Failure {
    #[cold]
    fn new(fault: Fault, event: &Event<'_>) -> Self {
        let data = Bytes::copy_from_slice(event.data);
        Self { fault, name: event.name.to_owned(), data, misplaced: event.misplaced }
    }
}
