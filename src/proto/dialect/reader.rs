//! Reads a stream of a dialect, in chunks of any size.

use std::fmt;

use memchr::memmem;

use super::end::End;
use super::event::{Framing, StreamEvent};
use super::fact::{Fact, Usage};
use super::framer::{Frame, Framer};
use super::kind::Kind;
use super::likeness::Likeness;
use super::template::{Delta, Templates};
use crate::proto::sse::LineEnding;

/// A dialect: turns events into facts. It is pure: it keeps what it needs of earlier events, and has no clock.
///
/// [`Kind::dialect`] returns those that this crate knows. Your own dialect must report the end of an answer:
///
/// ```
/// use tower_buttress::proto::dialect::{Channel, Dialect, End, StreamEvent, Fact, Fault, Framing, StreamReader};
///
/// /// Events named `token`, `done` and `fail`, with bare text.
/// #[derive(Debug)]
/// struct Plain;
///
/// impl Dialect for Plain {
///     fn event(&mut self, event: &StreamEvent<'_>, facts: &mut dyn FnMut(Fact<'_>)) {
///         let Ok(text) = std::str::from_utf8(event.data) else { return facts(Fact::Unreadable) };
///         facts(match event.name {
///             "token" => Fact::delta(0, Channel::Text, text),
///             "done" => Fact::Ended(if text == "length" { End::Limit } else { End::Whole }),
///             "fail" => Fact::Failed(Fault::of_message(text)),
///             _ => Fact::Other,
///         });
///     }
/// }
///
/// let mut reader = StreamReader::custom(Plain, Framing::EventStream);
/// let mut said = String::new();
/// // Cut anywhere:
/// for chunk in ["event: token\nda", "ta: hello\n\neve", "nt: done\ndata: length\n\n"] {
///     reader.read(chunk.as_bytes(), |fact, _| {
///         if let Fact::Delta { text, .. } = fact {
///             said += &text.decode();
///         }
///     });
/// }
/// assert_eq!(said, "hello");
/// assert_eq!(reader.ended(), Some(End::Limit));
/// ```
pub trait Dialect: fmt::Debug + Send + Sync {
    /// Reports the facts of an event.
    ///
    /// Report the end of an answer with [`Fact::Ended`], once for the whole stream; a stream without it was truncated.
    /// Report an error with [`Fact::Failed`].
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut dyn FnMut(Fact<'_>));

    /// Called when the stream has closed without an error: for dialects in which that ends an answer.
    fn end(&mut self, facts: &mut dyn FnMut(Fact<'_>)) {
        let _ = facts;
    }

    /// Reports the facts of a complete answer that does not stream, in the [`data`](StreamEvent::data) of `answer`.
    fn answer(&mut self, answer: &StreamEvent<'_>, facts: &mut dyn FnMut(Fact<'_>)) {
        let _ = (answer, facts);
    }
}

/// Turns the bytes of a stream, split anywhere, into [`Fact`]s.
///
/// It holds at most one event: up to 64 KiB unchanged; of a larger event, at most 1 MiB with its long strings cut. It
/// recognises an event with only a piece of text without parsing it, if a similar event came before.
///
/// ```
/// use tower_buttress::proto::dialect::{End, Framing, Kind, StreamReader};
///
/// let mut reader = StreamReader::new(Some(Kind::OpenAiChat), Framing::EventStream);
/// reader.read(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n", |_, _| {});
/// reader.read(b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", |_, _| {});
/// assert_eq!(reader.ended(), None, "another choice may follow");
/// reader.read(b"data: [DONE]\n\n", |_, _| {});
/// assert_eq!(reader.ended(), Some(End::Whole));
/// ```
#[derive(Debug)]
pub struct StreamReader {
    framer: Framer,
    events: EventInterpreter,
}

/// The interpretation of events.
#[derive(Debug)]
struct EventInterpreter {
    kind: Option<Kind>,
    dialect: Option<Box<dyn Dialect>>,
    /// How many more events may decide the dialect. Not 0, with a dialect: that one is a guess.
    undecided: u8,
    templates: Templates,
    ended: Option<End>,
    closed: bool,
    failed: bool,
    /// The stream ended in an event that is a closing marker.
    done: bool,
    /// An event was too large to read, and no content has followed.
    unread: bool,
    /// The stream holds several answers.
    has_choices: bool,
    sequence: Option<u64>,
}

/// The facts of one event.
#[derive(Debug, Default)]
struct EventFacts {
    delta: Option<Delta>,
    usage: Option<Usage>,
    ended: Option<End>,
    closed: bool,
    failed: bool,
    /// A choice that is not the first.
    has_choices: bool,
    /// It has more than one delta and token counts.
    more: bool,
}

/// An error, a ping and a comment may come first; a stream that is not recognised by then is something else.
const TO_DECIDE: u8 = 4;
/// The same if the path named a dialect: a gateway may report its own work first.
const TO_DECIDE_EXPECTED: u8 = 64;

// === impl StreamReader ===

impl StreamReader {
    /// Reads a stream of the dialect that the request's path named. The first events take precedence: they may show
    /// another dialect, or none that this crate knows. `None`: only the events decide.
    ///
    /// The first 64 events may decide; without a dialect by the path, the first 4.
    ///
    /// A stream of no known dialect has no facts except keep-alives, and is not [recognised](Self::is_recognised).
    ///
    /// ```
    /// use tower_buttress::proto::dialect::{Framing, Kind, StreamReader};
    ///
    /// // Another API, at a path that looks like OpenAI's.
    /// let mut reader = StreamReader::new(Some(Kind::OpenAiChat), Framing::EventStream);
    /// reader.read(b"data: {\"content\":\"Hi\",\"stop\":false}\n\n", |fact, _| panic!("{fact:?}"));
    /// assert!(!reader.is_recognised());
    /// ```
    #[must_use]
    pub fn new(kind: Option<Kind>, framing: Framing) -> Self {
        let mut reader = Self::with(kind, kind.map(Kind::dialect), framing);
        reader.events.undecided = if kind.is_some() { TO_DECIDE_EXPECTED } else { TO_DECIDE };
        reader
    }

    /// Reads a stream of this dialect, whatever its events look like.
    #[must_use]
    pub fn of(kind: Kind, framing: Framing) -> Self {
        Self::with(Some(kind), Some(kind.dialect()), framing)
    }

    /// Reads a stream of a dialect of your own.
    #[must_use]
    pub fn custom(dialect: impl Dialect + 'static, framing: Framing) -> Self {
        Self::boxed(Box::new(dialect), framing)
    }

    /// The same for a boxed dialect.
    #[must_use]
    pub fn boxed(dialect: Box<dyn Dialect>, framing: Framing) -> Self {
        Self::with(None, Some(dialect), framing)
    }

    fn with(kind: Option<Kind>, dialect: Option<Box<dyn Dialect>>, framing: Framing) -> Self {
        let events = EventInterpreter {
            kind,
            dialect,
            undecided: 0,
            templates: Templates::default(),
            ended: None,
            closed: false,
            failed: false,
            done: false,
            unread: false,
            has_choices: false,
            sequence: None,
        };
        Self { framer: Framer::new(framing), events }
    }

    /// Reads `bytes`, and passes their facts to `facts`, each with its event.
    ///
    /// Returns how many of the bytes belong to complete events; only those before an event that reports an error.
    pub fn read(&mut self, bytes: &[u8], mut facts: impl FnMut(Fact<'_>, &StreamEvent<'_>)) -> usize {
        self.read_until(bytes, |fact, event| {
            facts(fact, event);
            false
        })
    }

    /// The same. The first event for which `facts` returns `true` is treated as an error event.
    pub(crate) fn read_until(
        &mut self,
        bytes: &[u8],
        mut facts: impl FnMut(Fact<'_>, &StreamEvent<'_>) -> bool,
    ) -> usize {
        let liked = self.read_alike(bytes, &mut |fact, event| {
            // An event recognised by its likeness has a piece of text.
            let _ = facts(fact, event);
        });
        match bytes.get(liked..) {
            None | Some([]) => liked,
            Some(rest) => liked + self.read_framed(rest, &mut facts),
        }
    }

    /// Reads events that are like an earlier, parsed one, without splitting them into lines. Returns the number of their
    /// bytes.
    #[inline]
    fn read_alike(&mut self, bytes: &[u8], facts: &mut impl FnMut(Fact<'_>, &StreamEvent<'_>)) -> usize {
        let Self { framer, events } = self;
        let Some(ending) = framer.between_events().filter(|_| !events.failed) else { return 0 };
        let mut read = 0;
        while let Some(rest) = bytes.get(read..).filter(|rest| !rest.is_empty()) {
            let Some((event, matched, length)) = events.templates.find_in(rest, ending) else { break };
            events.sequence = matched.sequence.or(events.sequence);
            events.unread &= events.has_choices;
            matched.facts(|fact| facts(fact, &event));
            read += length;
        }
        read
    }

    /// Splits the bytes into events, and reads them.
    fn read_framed(&mut self, bytes: &[u8], facts: &mut impl FnMut(Fact<'_>, &StreamEvent<'_>) -> bool) -> usize {
        let Self { framer, events } = self;
        let mut failed = events.failed.then_some(0);
        let whole = framer.read(bytes, &mut |frame, start| {
            let mut refused = false;
            events.frame(&frame, &mut |fact, event| refused |= facts(fact, event));
            events.failed |= refused;
            failed = failed.or_else(|| events.failed.then_some(start));
        });
        failed.unwrap_or(whole)
    }

    /// The stream has closed without an error: reports its facts. Inside an event, or an open array, this does not end an
    /// answer.
    pub fn end(&mut self, mut facts: impl FnMut(Fact<'_>, &StreamEvent<'_>)) {
        let Self { framer, events } = self;
        framer.end(&mut |frame, _| events.frame(&frame, &mut facts));
        if framer.may_end() || events.done {
            events.end(&mut facts);
        }
    }

    /// The dialect, if known.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        self.events.kind
    }

    /// Whether the stream's dialect is known, and so its end.
    #[must_use]
    pub const fn is_recognised(&self) -> bool {
        self.events.dialect.is_some()
    }

    /// How the answer ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.events.ended.filter(|_| !self.events.failed)
    }

    /// Whether the dialect's marker closed the stream without a report of how the answer ended ([`Fact::Marker`]).
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.events.closed
    }

    /// Whether an event was too large to read, and may have contained the end: no content has followed.
    #[must_use]
    pub const fn has_unread(&self) -> bool {
        self.events.unread
    }

    /// Whether the stream is inside an event, which would be lost if it ended here.
    #[must_use]
    pub fn in_event(&self) -> bool {
        self.framer.in_event()
    }

    /// How the lines of the stream end.
    #[must_use]
    pub const fn line_ending(&self) -> LineEnding {
        self.framer.line_ending()
    }

    /// Whether an event has set an id, valid or not.
    pub(crate) const fn has_ids(&self) -> bool {
        self.framer.has_ids()
    }

    /// The next `sequence_number`, in Responses.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.events.sequence.map_or(0, |last| last.saturating_add(1))
    }
}

// === impl Events ===

impl EventInterpreter {
    fn frame(&mut self, frame: &Frame<'_>, facts: &mut impl FnMut(Fact<'_>, &StreamEvent<'_>)) {
        match frame {
            Frame::Event(event) => {
                if let Some(matched) = self.templates.find(event) {
                    self.sequence = matched.sequence.or(self.sequence);
                    self.unread &= self.has_choices;
                    return matched.facts(|fact| facts(fact, event));
                }
                self.parse(event, facts);
            }
            Frame::Unended(event) => self.unended(event, facts),
            Frame::KeepAlive => facts(Fact::KeepAlive, &StreamEvent::new("", b"")),
            Frame::TooLarge => {
                self.unread = true;
                facts(Fact::Other, &StreamEvent::new("", b""));
            }
            Frame::NoEvent if self.undecided > 0 || self.dialect.is_none() => self.forget(),
            Frame::NoEvent => facts(Fact::Unreadable, &StreamEvent::new("", b"")),
        }
    }

    #[cold]
    #[inline(never)]
    fn parse(&mut self, event: &StreamEvent<'_>, facts: &mut impl FnMut(Fact<'_>, &StreamEvent<'_>)) {
        if self.undecided > 0 {
            self.decide(event);
        }
        let Some(dialect) = &mut self.dialect else { return };
        if self.kind.is_some() && event.is_sign_of_life() {
            return facts(Fact::KeepAlive, event);
        }
        let mut said = EventFacts::default();
        dialect.event(event, &mut |fact| {
            said.note(&fact);
            facts(fact, event);
        });
        self.note(&said);
        if self.kind == Some(Kind::OpenAiResponses) {
            self.sequence = sequence_number(event.data).or(self.sequence);
        }
        if let (Some(kind), Some(delta), false) = (self.kind, &said.delta, said.more) {
            self.templates.learn(kind, event, delta, said.usage);
        }
    }

    /// Reads the event in which the stream ended. Only an error counts, complete or not; the dialect's state does not
    /// change.
    #[cold]
    fn unended(&mut self, event: &StreamEvent<'_>, facts: &mut impl FnMut(Fact<'_>, &StreamEvent<'_>)) {
        // Only the blank line after the marker is missing.
        self.done = event.data.trim_ascii() == b"[DONE]";
        let Some(kind) = self.kind else { return };
        kind.dialect().event(event, &mut |fact| {
            if matches!(fact, Fact::Failed(_)) {
                self.failed = true;
                facts(fact, event);
            }
        });
    }

    fn end(&mut self, facts: &mut impl FnMut(Fact<'_>, &StreamEvent<'_>)) {
        let Some(dialect) = &mut self.dialect else { return };
        let mut said = EventFacts::default();
        dialect.end(&mut |fact| {
            said.note(&fact);
            facts(fact, &StreamEvent::new("", b""));
        });
        self.note(&said);
    }

    fn note(&mut self, said: &EventFacts) {
        self.ended = self.ended.or(said.ended);
        self.closed |= said.closed;
        self.failed |= said.failed;
        self.has_choices |= said.has_choices;
        self.unread &= self.has_choices || said.delta.is_none();
    }

    /// Decides the dialect by this event. The event takes precedence over the expected dialect.
    fn decide(&mut self, event: &StreamEvent<'_>) {
        match Likeness::of(event, self.kind) {
            Likeness::Of(kind) => {
                self.undecided = 0;
                if self.kind != Some(kind) {
                    self.kind = Some(kind);
                    self.dialect = Some(kind.dialect());
                }
            }
            Likeness::Foreign => {
                self.undecided = self.undecided.saturating_sub(1);
                self.forget();
            }
            Likeness::Unclear => self.undecided = self.undecided.saturating_sub(1),
        }
    }

    /// The events so far show that the stream has no known dialect.
    fn forget(&mut self) {
        (self.kind, self.dialect) = (None, None);
        self.templates = Templates::default();
    }
}

/// The number of an event in Responses.
pub(crate) fn sequence_number(data: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"sequence_number\":";
    let at = memmem::find(data, KEY)?;
    let value = data.get(at + KEY.len()..)?.trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}

// === impl Said ===

impl EventFacts {
    fn note(&mut self, fact: &Fact<'_>) {
        if let Fact::Delta { choice, .. } | Fact::ChoiceEnded { choice, .. } = fact {
            self.has_choices |= *choice != 0;
        }
        match fact {
            Fact::Delta { choice, channel, text } if self.delta.is_none() => {
                self.delta = Some(Delta { choice: *choice, channel: *channel, text: text.decode().into_owned() });
            }
            Fact::Usage(usage) if self.usage.is_none() => self.usage = Some(*usage),
            other => {
                self.more = true;
                match other {
                    Fact::Ended(end) => self.ended = self.ended.or(Some(*end)),
                    Fact::Marker => self.closed = true,
                    Fact::Failed(_) => self.failed = true,
                    _ => {}
                }
            }
        }
    }
}
