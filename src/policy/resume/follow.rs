//! Follows a stream, and tells whether what came after a cut is the rest of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::NotResumed;
use super::history::History;
use super::position::{Position, Step};
use super::restart::{Original, Restart, Said};
use super::withheld::{Aside, Followed, PartialBlock};
use crate::error::StreamTruncated;
use crate::proto::dialect::{End, Fact, Framing, Kind, Reader, Usage};
use crate::proto::resume::{Cursor, Identity, Mark, Recognised, ResumeBy, in_background};
use crate::proto::sse::{Block, Blocks, behind_lf, without_bom};

/// What is known of a stream.
pub(crate) struct StreamFollower {
    /// Where it is at the server's cursor.
    position: Position,
    /// Whether the answer has still to say that it is made in the background.
    in_background: bool,
    blocks: Blocks,
    withheld: PartialBlock,
    reader: Reader,
    identity: Identity,
    model: Option<String>,
    /// What the caller has, as far as it can be compared with another answer.
    history: Option<History>,
    restart: Option<Box<Restart>>,
    /// The first event, as a hash.
    first: Option<u64>,
    /// The last one, where the cursor is a number of bytes.
    last: Option<u64>,
    /// The tokens that what came after a cut has told of.
    usage: Option<Usage>,
    /// How long the server wants a client to wait that comes back.
    reconnection_time: Option<Duration>,
    /// The stream has told of an error.
    failed: bool,
    part: StreamPart,
    /// An event has come that is new.
    progressed: bool,
    /// The rest was closed by a marker.
    is_closed: bool,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamPart {
    Original,
    /// What came after a cut, whether anything of it was read, and whether an event has shown that it is the rest.
    Rest {
        begun: bool,
        verified: bool,
    },
}

/// Closes the stream, and has no cursor anywhere.
const DONE: &[u8] = b"[DONE]";

// === impl StreamFollower ===

impl StreamFollower {
    /// Follows a stream from its start. `kind`: what the request's path says of its dialect; `remember`: how many bytes of it
    /// are remembered, if it may be made anew.
    pub(crate) fn new(recognised: Option<Recognised>, kind: Option<Kind>, remember: Option<usize>) -> Self {
        Self {
            in_background: recognised.as_ref().is_some_and(|recognised| recognised.in_background),
            position: Position::new(recognised.map(|recognised| recognised.by)),
            blocks: Blocks::default(),
            withheld: PartialBlock::default(),
            reader: Reader::new(kind, Framing::EventStream),
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

    /// Reads on. `hold` says whether as many bytes may be withheld.
    pub(crate) fn read(&mut self, data: &Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        if self.restart.is_some() {
            return self.read_restart(data, hold);
        }
        let before = self.withheld.len();
        // The LF of a CRLF whose CR has ended the last block.
        let lf = usize::from(before == 0 && self.blocks.is_after_cr() && data.starts_with(b"\n"));
        let mut rest = &data[..];
        if !self.blocks.next(&mut rest) {
            self.position.pass(lf);
            self.withheld.push(data.get(lf..).unwrap_or_default());
            return self.hand_on(data.slice(..lf), hold);
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
        self.hand_on(all.slice(skipped..), hold)
    }

    /// Hands on what is ready. What is withheld cannot be let go before an event has shown that it is the rest.
    fn hand_on(&mut self, ready: Bytes, hold: impl FnOnce(usize) -> bool) -> Followed {
        let is_unproved = self.is_unproved();
        match self.withheld.hand_on(ready, hold) {
            Followed::Aside(..) if is_unproved => Followed::Wrong(NotResumed::NotComparable),
            read => read,
        }
    }

    fn is_unproved(&self) -> bool {
        matches!(self.part, StreamPart::Rest { verified: false, .. })
    }

    /// Reads one block. Returns `false` where the stream turns out to be none that can be continued.
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
        // A marker alone is also what a server answers that has forgotten the stream: nothing proves that nothing is missing.
        let is_wrong = garbage || is_unproved && is_marker(&block) && self.reader.ended().is_none();
        if is_wrong && self.part != StreamPart::Original { Err(NotResumed::Contradicted) } else { Ok(true) }
    }

    /// Reads what a block says. Returns whether it is in the syntax of no dialect.
    fn look(&mut self, raw: &[u8]) -> bool {
        let Self { reader, identity, failed, part, usage, .. } = self;
        let mut garbage = false;
        reader.read(raw, |fact, _| match fact {
            Fact::Started { id: Some(id), .. } => identity.began(id),
            Fact::Usage(told) if *part != StreamPart::Original => Usage::note(usage, told),
            Fact::Failed(_) => *failed = true,
            Fact::Unreadable => garbage = true,
            _ => {}
        });
        garbage
    }

    /// The same, and remembers it.
    fn remember(&mut self, raw: &[u8], block: &Block<'_>) -> bool {
        let said = Said::read(&mut self.reader, raw, block);
        if let Some((id, model)) = said.started {
            self.identity.began(&id);
            self.model = model;
        }
        if let Some(told) = said.usage.filter(|_| self.part != StreamPart::Original) {
            Usage::note(&mut self.usage, told);
        }
        self.failed |= said.failed;
        let history = self.history.as_mut();
        let fits = history.is_some_and(|history| said.atoms.iter().all(|atom| history.push(atom)));
        if said.opaque || said.garbage || !fits {
            self.history = None;
        }
        said.garbage
    }

    /// Notes where the stream is. Returns `false` where it cannot be continued from anywhere.
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

    /// Looks whether a block goes on behind the cursor. Returns whether the rest is known for one by now.
    fn rest(&mut self, raw: &[u8], block: &Block<'_>, begun: bool, verified: bool) -> Result<bool, NotResumed> {
        let data = block.data.as_deref();
        // What is sent again from a place further back begins with neither of them, and cannot be told from the rest.
        let is_known = data.is_some() && !verified && [self.first, self.last].contains(&Some(hash(raw)));
        if is_known || data.is_some_and(|data| !self.identity.fits(self.reader.kind(), data)) {
            return Err(NotResumed::Contradicted);
        }
        let is_marker = is_marker(block);
        match self.position.follow(block, begun)? {
            Step::Next => Ok(true),
            Step::NoEvent => Ok(verified),
            Step::Unmarked if verified || is_marker => {
                self.is_closed |= is_marker;
                Ok(verified)
            }
            Step::Unmarked => Err(NotResumed::Contradicted),
        }
    }

    /// How the server is asked for the rest.
    pub(crate) fn by(&self) -> Option<&ResumeBy> {
        self.position.by()
    }

    /// How long the server wants a client to wait that comes back, where it said so.
    pub(crate) fn reconnection_time(&self) -> Option<Duration> {
        self.reconnection_time
    }

    /// The id of the answer. Empty where it has none.
    pub(crate) fn id(&self) -> &str {
        self.identity.id()
    }

    /// The cursor behind what was handed on: `None` if the rest cannot be asked for from there.
    pub(crate) fn position(&self) -> Option<Mark> {
        if self.failed || self.first.is_none() {
            return None;
        }
        self.position.last()
    }

    /// The stream broke off, and what comes next is to be the rest of it.
    pub(crate) fn begin_rest(&mut self) {
        self.blocks = Blocks::default();
        self.withheld = PartialBlock::default();
        self.part = StreamPart::Rest { begun: false, verified: false };
    }

    /// Whether another answer to the same request could be compared with what was handed on.
    pub(crate) fn is_comparable(&self) -> bool {
        let known = matches!(self.reader.kind(), Some(Kind::OpenAiChat | Kind::Anthropic | Kind::Gemini));
        known && self.history.is_some() && !self.failed
    }

    /// What comes next is another answer to the same request: `other_model` if it may be that of another model, `is_foreign`
    /// if it comes from another upstream. It takes the place of the first one.
    pub(crate) fn begin_restart(&mut self, other_model: bool, is_foreign: bool) {
        let (Some(kind), Some(had)) = (self.reader.kind(), self.history.take()) else { return };
        let original = Original { id: self.identity.id().to_owned(), model: self.model.take() };
        self.restart = Some(Box::new(Restart::new(kind, had, original, other_model, is_foreign)));
        self.position = Position::new(None);
        self.begin_rest();
        self.reader = Reader::of(kind, Framing::EventStream);
    }

    /// Reads on in another answer.
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
        match self.withheld.hand_on(ready.freeze(), hold) {
            // What is withheld cannot be let go before it is known whether it goes on with the first answer.
            Followed::Aside(..) if !is_complete => Followed::Wrong(NotResumed::NotComparable),
            read => read,
        }
    }

    /// The tokens that what came after a cut has told of, since this was last asked.
    pub(crate) fn take_usage(&mut self) -> Option<Usage> {
        self.usage.take()
    }

    /// Whether an event has come that is new, since this was last asked.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// The stream has ended cleanly. Returns whether it may have: not in an event, nor before the model said how its answer
    /// ended, where the dialect is known.
    pub(crate) fn may_end(&mut self) -> bool {
        if !self.withheld.may_be_last() {
            return false;
        }
        self.reader.end(|_, _| {});
        let unknown = !self.reader.is_recognised() && self.has_rest();
        (self.failed || self.is_over() || unknown) && self.has_what_was_had()
    }

    /// Whether anything of the rest has come, where one was asked for. Nothing is also what a server answers that has forgotten
    /// the stream.
    fn has_rest(&self) -> bool {
        match self.part {
            StreamPart::Original => true,
            StreamPart::Rest { verified, .. } => verified || self.is_closed || self.restart.is_some(),
        }
    }

    /// Whether the model has said how its answer ended, so that nothing is missing.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// Whether it has, or the stream was closed in the way of its dialect: some servers end whole answers without a reason.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended() || self.reader.is_closed() && self.has_what_was_had()
    }

    pub(crate) fn ended(&self) -> Option<End> {
        self.reader.ended().filter(|_| self.has_what_was_had())
    }

    /// Whether another answer has come as far as the first one.
    fn has_what_was_had(&self) -> bool {
        self.restart.as_ref().is_none_or(|restart| restart.is_complete())
    }

    /// Whether what is read came after a cut.
    pub(crate) fn is_rest(&self) -> bool {
        self.part != StreamPart::Original
    }

    /// An error that says that it was cut here.
    pub(crate) fn truncated(&self) -> StreamTruncated {
        // Ollama's form is a line, and no event.
        let kind = self.reader.kind().filter(|kind| *kind != Kind::Ollama);
        StreamTruncated::new(kind, self.reader.next_sequence())
    }

    /// What is withheld.
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
