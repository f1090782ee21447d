//! Follows a stream, and verifies that the data after a cut is its rest.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::NotResumed;
use super::history::History;
use super::position::{BlockKind, Position};
use super::restart::{EventContent, Original, Restart};
use super::withheld::{Aside, Followed, PartialBlock};
use crate::error::StreamTruncated;
use crate::proto::dialect::{End, Fact, Framing, Kind, StreamReader, Usage};
use crate::proto::resume::{Cursor, Identity, Mark, Recognised, ResumeBy, in_background};
use crate::proto::sse::{Block, Blocks, behind_lf, without_bom};

/// The state of a stream.
pub(crate) struct StreamFollower {
    /// The position at the server's cursor.
    position: Position,
    /// Whether the answer still has to report that it is made in the background.
    in_background: bool,
    blocks: Blocks,
    withheld: PartialBlock,
    reader: StreamReader,
    identity: Identity,
    model: Option<String>,
    /// The part that the caller has, as far as it can be compared with another answer.
    history: Option<History>,
    restart: Option<Box<Restart>>,
    /// The hash of the first event.
    first: Option<u64>,
    /// The hash of the last event, if the cursor is a number of bytes.
    last: Option<u64>,
    /// The tokens reported after a cut.
    usage: Option<Usage>,
    /// How long the server wants a reconnecting client to wait.
    reconnection_time: Option<Duration>,
    /// The stream has reported an error.
    failed: bool,
    part: StreamPart,
    /// A new event has come.
    progressed: bool,
    /// The rest was closed by a marker.
    is_closed: bool,
}

/// The part that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamPart {
    Original,
    /// Data after a cut: whether any of it was read, and whether an event has verified it as the rest.
    Rest {
        begun: bool,
        verified: bool,
    },
}

/// Closes the stream, and never has a cursor.
const DONE: &[u8] = b"[DONE]";

// === impl StreamFollower ===

impl StreamFollower {
    /// Follows a stream from its start. `kind`: the dialect by the request's path; `remember`: how many bytes are
    /// remembered for a verified restart.
    pub(crate) fn new(recognised: Option<Recognised>, kind: Option<Kind>, remember: Option<usize>) -> Self {
        Self {
            in_background: recognised.as_ref().is_some_and(|recognised| recognised.in_background),
            position: Position::new(recognised.map(|recognised| recognised.by)),
            blocks: Blocks::default(),
            withheld: PartialBlock::default(),
            reader: StreamReader::new(kind, Framing::EventStream),
            identity: Identity::default(),
            model: None,
            history: remember.map(History::new),
            restart: None,
            first: None,
            last: None,
            usage: None,
            reconnection_time: None,
            failed: false,
            part: StreamPart::Original,
            progressed: false,
            is_closed: false,
        }
    }

    /// Reads `data`. `hold` tells whether that many bytes may be withheld.
    pub(crate) fn read(&mut self, data: &Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        if self.restart.is_some() {
            return self.read_restart(data, hold);
        }
        let before = self.withheld.len();
        // The LF of a CRLF whose CR ended the last block.
        let lf = usize::from(before == 0 && self.blocks.is_after_cr() && data.starts_with(b"\n"));
        let mut rest = &data[..];
        if !self.blocks.next(&mut rest) {
            self.position.pass(lf);
            self.withheld.push(data.get(lf..).unwrap_or_default());
            return self.release(data.slice(..lf), hold);
        }
        let mut all = self.withheld.join(data);
        let skipped = match self.part {
            StreamPart::Rest { begun: false, .. } => all.len() - without_bom(&all).len(),
            _ => 0,
        };
        let mut start = skipped;
        loop {
            let end = behind_lf(&all, before + data.len() - rest.len());
            match self.block(all.get(start..end).unwrap_or_default()) {
                Ok(true) => {}
                Ok(false) => return Followed::Aside(all, Aside::NotResumable),
                Err(reason) => return Followed::Wrong(reason),
            }
            start = end;
            if !self.blocks.next(&mut rest) {
                break;
            }
        }
        if start == all.len() && before == 0 && skipped == 0 {
            return Followed::All;
        }
        self.withheld.push(&all.split_off(start));
        self.release(all.slice(skipped..), hold)
    }

    /// Forwards the ready part. Unverified data cannot be released.
    fn release(&mut self, ready: Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        let is_unproved = self.is_unproved();
        match self.withheld.release(ready, hold) {
            Followed::Aside(..) if is_unproved => Followed::Wrong(NotResumed::NotComparable),
            read => read,
        }
    }

    fn is_unproved(&self) -> bool {
        matches!(self.part, StreamPart::Rest { verified: false, .. })
    }

    /// Reads one block. Returns `false` if the stream cannot be continued.
    fn block(&mut self, raw: &[u8]) -> Result<bool, NotResumed> {
        let block = Block::parse(raw);
        let is_unproved = self.is_unproved();
        match self.part {
            StreamPart::Original => {
                if !self.original(raw, &block) {
                    return Ok(false);
                }
            }
            StreamPart::Rest { begun, verified } => {
                let verified = self.rest(raw, &block, begun, verified)?;
                self.progressed |= verified && block.data.is_some();
                self.part = StreamPart::Rest { begun: true, verified };
            }
        }
        self.position.pass(raw.len());
        if block.data.is_some() && self.by().is_some_and(|by| by.cursor == Cursor::Bytes) {
            self.last = Some(hash(raw));
        }
        self.reconnection_time = block.retry.map(Duration::from_millis).or(self.reconnection_time);
        let garbage = if self.history.is_some() { self.remember(raw, &block) } else { self.look(raw) };
        if let Some(data) = &block.data {
            self.identity.learn(self.reader.kind(), data);
        }
        // A server that has lost the stream may also answer with a marker alone: that proves nothing.
        let is_wrong = garbage || is_unproved && is_marker(&block) && self.reader.ended().is_none();
        if is_wrong && self.part != StreamPart::Original { Err(NotResumed::Contradicted) } else { Ok(true) }
    }

    /// Reads the content of a block. Returns whether it fits no dialect's syntax.
    fn look(&mut self, raw: &[u8]) -> bool {
        let Self { reader, identity, failed, part, usage, .. } = self;
        let mut garbage = false;
        reader.read(raw, |fact, _| match fact {
            Fact::Started { id: Some(id), .. } => identity.began(id),
            Fact::Usage(reported) if *part != StreamPart::Original => Usage::note(usage, reported),
            Fact::Failed(_) => *failed = true,
            Fact::Unreadable => garbage = true,
            _ => {}
        });
        garbage
    }

    /// The same, and remembers the content.
    fn remember(&mut self, raw: &[u8], block: &Block<'_>) -> bool {
        let said = EventContent::read(&mut self.reader, raw, block);
        if let Some((id, model)) = said.started {
            self.identity.began(&id);
            self.model = model;
        }
        if let Some(reported) = said.usage.filter(|_| self.part != StreamPart::Original) {
            Usage::note(&mut self.usage, reported);
        }
        self.failed |= said.failed;
        let history = self.history.as_mut();
        let fits = history.is_some_and(|history| said.atoms.iter().all(|atom| history.push(atom)));
        if said.opaque || said.garbage || !fits {
            self.history = None;
        }
        said.garbage
    }

    /// Notes the position of the stream. Returns `false` if it cannot be continued from anywhere.
    fn original(&mut self, raw: &[u8], block: &Block<'_>) -> bool {
        if let Some(data) = &block.data {
            self.first.get_or_insert_with(|| hash(raw));
            if std::mem::take(&mut self.in_background) && in_background(data) != Some(true) {
                return false;
            }
        }
        self.position.note(block);
        true
    }

    /// Checks that a block continues after the cursor. Returns whether the rest is verified by now.
    fn rest(&mut self, raw: &[u8], block: &Block<'_>, begun: bool, verified: bool) -> Result<bool, NotResumed> {
        let data = block.data.as_deref();
        // A rest that starts further back begins with neither of them, and looks like the rest.
        let is_known = data.is_some() && !verified && [self.first, self.last].contains(&Some(hash(raw)));
        if is_known || data.is_some_and(|data| !self.identity.fits(self.reader.kind(), data)) {
            return Err(NotResumed::Contradicted);
        }
        let is_marker = is_marker(block);
        match self.position.follow(block, begun)? {
            BlockKind::Next => Ok(true),
            BlockKind::NoEvent => Ok(verified),
            BlockKind::Unmarked if verified || is_marker => {
                self.is_closed |= is_marker;
                Ok(verified)
            }
            BlockKind::Unmarked => Err(NotResumed::Contradicted),
        }
    }

    /// How to ask the server for the rest.
    pub(crate) fn by(&self) -> Option<&ResumeBy> {
        self.position.by()
    }

    /// How long the server wants a reconnecting client to wait, if it said so.
    pub(crate) fn reconnection_time(&self) -> Option<Duration> {
        self.reconnection_time
    }

    /// The id of the answer, or an empty string.
    pub(crate) fn id(&self) -> &str {
        self.identity.id()
    }

    /// The cursor after the forwarded part: `None` if the rest cannot be requested from there.
    pub(crate) fn position(&self) -> Option<Mark> {
        if self.failed || self.first.is_none() {
            return None;
        }
        self.position.last()
    }

    /// The stream broke, and the next data must be its rest.
    pub(crate) fn begin_rest(&mut self) {
        self.blocks = Blocks::default();
        self.withheld = PartialBlock::default();
        self.part = StreamPart::Rest { begun: false, verified: false };
    }

    /// Whether another answer to the same request could be compared with the forwarded part.
    pub(crate) fn is_comparable(&self) -> bool {
        let known = matches!(self.reader.kind(), Some(Kind::OpenAiChat | Kind::Anthropic | Kind::Gemini));
        known && self.history.is_some() && !self.failed
    }

    /// The next data is another answer to the same request: `other_model` if another model may give it, `is_foreign` if
    /// it comes from another upstream. It replaces the first answer.
    pub(crate) fn begin_restart(&mut self, other_model: bool, is_foreign: bool) {
        let (Some(kind), Some(had)) = (self.reader.kind(), self.history.take()) else { return };
        let original = Original { id: self.identity.id().to_owned(), model: self.model.take() };
        self.restart = Some(Box::new(Restart::new(kind, had, original, other_model, is_foreign)));
        self.position = Position::new(None);
        self.begin_rest();
        self.reader = StreamReader::of(kind, Framing::EventStream);
    }

    /// Reads data of another answer.
    fn read_restart(&mut self, data: &Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        let Some(mut restart) = self.restart.take() else { return Followed::All };
        let before = self.withheld.len();
        let mut rest = &data[..];
        let (mut start, mut ready) = (0, BytesMut::new());
        let mut all = Bytes::new();
        while self.blocks.next(&mut rest) {
            if all.is_empty() {
                all = self.withheld.join(data);
                if let StreamPart::Rest { begun: false, verified } = self.part {
                    start = all.len() - without_bom(&all).len();
                    self.part = StreamPart::Rest { begun: true, verified };
                }
            }
            let end = behind_lf(&all, before + data.len() - rest.len());
            match restart.block(&mut self.reader, &all.slice(start..end), &mut self.usage) {
                Ok(shown) => ready.extend_from_slice(&shown),
                Err(reason) => return Followed::Wrong(reason),
            }
            start = end;
        }
        let left = if all.is_empty() { &data[..] } else { all.get(start..).unwrap_or_default() };
        self.withheld.push(left);
        let is_complete = restart.is_complete();
        self.progressed |= is_complete && !ready.is_empty();
        self.restart = Some(restart);
        match self.withheld.release(ready.freeze(), hold) {
            // Withheld data cannot be released before it is known to continue the first answer.
            Followed::Aside(..) if !is_complete => Followed::Wrong(NotResumed::NotComparable),
            read => read,
        }
    }

    /// Takes the tokens reported after a cut, since the last call.
    pub(crate) fn take_usage(&mut self) -> Option<Usage> {
        self.usage.take()
    }

    /// Takes whether a new event has come, since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// The stream has closed without an error. Returns whether that is a valid end: not inside an event, nor, in a known
    /// dialect, before the model said how its answer ended.
    pub(crate) fn may_end(&mut self) -> bool {
        if !self.withheld.may_be_last() {
            return false;
        }
        self.reader.end(|_, _| {});
        let unknown = !self.reader.is_recognised() && self.has_rest();
        (self.failed || self.is_over() || unknown) && self.has_what_was_had()
    }

    /// Whether any of the requested rest has come. A server that has lost the stream may answer with nothing.
    fn has_rest(&self) -> bool {
        match self.part {
            StreamPart::Original => true,
            StreamPart::Rest { verified, .. } => verified || self.is_closed || self.restart.is_some(),
        }
    }

    /// Whether the model has said how its answer ended, so nothing is missing.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// Whether it has, or the stream was closed by its dialect's marker: some servers end complete answers without a
    /// reason.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended() || self.reader.is_closed() && self.has_what_was_had()
    }

    pub(crate) fn ended(&self) -> Option<End> {
        self.reader.ended().filter(|_| self.has_what_was_had())
    }

    /// Whether another answer has reached the end of the caller's part.
    fn has_what_was_had(&self) -> bool {
        self.restart.as_ref().is_none_or(|restart| restart.is_complete())
    }

    /// Whether the data comes after a cut.
    pub(crate) fn is_rest(&self) -> bool {
        self.part != StreamPart::Original
    }

    /// Returns the error of a stream that was cut here.
    pub(crate) fn truncated(&self) -> StreamTruncated {
        // Ollama's form is a line, not an event.
        let kind = self.reader.kind().filter(|kind| *kind != Kind::Ollama);
        StreamTruncated::new(kind, self.reader.next_sequence())
    }

    /// Takes the withheld data.
    pub(crate) fn take_held(&mut self) -> Bytes {
        self.withheld.take()
    }
}

fn hash(raw: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    raw.hash(&mut hasher);
    hasher.finish()
}

fn is_marker(block: &Block<'_>) -> bool {
    block.data.as_deref().is_some_and(|data| data.trim_ascii() == DONE)
}

#[cfg(test)]
mod tests;
