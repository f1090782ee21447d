//! Judges an answer by the part that has arrived.

use std::sync::Arc;

use bytes::Bytes;
use http_body::{Body, Frame};

use super::super::config::{Chosen, NAME};
use super::super::state::{Readable, StreamState};
use super::super::watch::{BodyWatch, ContentLimit};
use super::refuse::{ANOTHER, NO_MEMORY, RETRY};
use super::{
    AnswerPrelude, Decision, MAX_CONTENT_WAIT, MAX_ERROR, MAX_EVENTS, MAX_FRAMES, MAX_WITHHELD, PreludeContent,
    StreamPrelude, WithheldPrelude,
};
use crate::error::{BoxError, StreamTruncated};
use crate::event::Event;
use crate::proto::dialect::{End, Framing, Kind};
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

// === impl WithheldPrelude ===

impl<B> WithheldPrelude<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    pub(super) fn data(&mut self, frame: Frame<Bytes>) -> Option<Decision> {
        match &mut self.content {
            PreludeContent::Stream(stream) => {
                let readable = frame.data_ref().map(|data| stream.state.read(data));
                self.stream_data(frame, readable?)
            }
            PreludeContent::Answer(answer) => {
                if let Some(data) = frame.data_ref() {
                    answer.reader.read(data);
                }
                let is_array = answer.reader.first() == Some(b'[') && answer.dialect.kind() == Some(Kind::Gemini);
                self.hold(frame);
                if is_array {
                    return self.turn_to_array();
                }
                match self.config.hold {
                    Some(max) => self.beyond(max.max(MAX_WITHHELD), self.held.bytes()),
                    None => self.is_full(MAX_WITHHELD).then(|| self.release()),
                }
            }
            PreludeContent::Error(..) => {
                self.hold(frame);
                self.is_full(MAX_ERROR).then_some(Decision::Release(BodyWatch::Nothing))
            }
            PreludeContent::Over => None,
        }
    }

    /// Counts the withheld bytes. Without memory for them the layer forwards them; with `hold`, which forwards only
    /// complete answers, it refuses the answer.
    pub(super) fn count(&mut self) -> Option<Decision> {
        let (of_answer, partial) = match &self.content {
            PreludeContent::Stream(stream) => (true, stream.state.withheld()),
            PreludeContent::Answer(..) => (true, 0),
            PreludeContent::Error(..) | PreludeContent::Over => (false, 0),
        };
        if self.reservation.set(self.held.bytes().saturating_add(partial)) {
            return None;
        }
        if of_answer && self.config.hold.is_some() {
            let why = "There is no memory left to hold the upstream's answer back.";
            return Some(self.refuse_as("no_memory", why, NO_MEMORY));
        }
        self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason: "no memory is left to withhold the answer" });
        Some(self.release())
    }

    fn stream_data(&mut self, frame: Frame<Bytes>, readable: Readable) -> Option<Decision> {
        match readable {
            Readable::All => self.hold(frame),
            Readable::Part(part) => self.hold(Frame::data(part)),
        }
        self.judge_stream()
    }

    /// Judges a stream by its events so far.
    fn judge_stream(&mut self) -> Option<Decision> {
        let PreludeContent::Stream(stream) = &mut self.content else { return None };
        let (seen, withheld) = (stream.state.seen(), self.held.bytes().saturating_add(stream.state.withheld()));
        stream.limit.settle(seen);
        if stream.state.failure().is_some() {
            return Some(self.refuse_failure());
        }
        if stream.state.is_unproven() {
            let truncated = stream.state.truncated();
            return Some(self.refuse_truncated(truncated));
        }
        if !stream.state.is_recognised() {
            let Some(max) = self.config.hold else { return Some(self.release()) };
            // In a stream of another API the layer cannot recognise content.
            stream.limit = ContentLimit::none();
            return self.beyond(max, withheld);
        }
        if seen.garbage && !(seen.content || seen.reason) {
            return Some(self.refuse_as(
                "invalid_stream",
                "The upstream's answer is not in the format of its API.",
                RETRY,
            ));
        }
        if let Some(max) = self.config.hold {
            return self.beyond(max, withheld);
        }
        let enough = seen.content || seen.reason || seen.events > MAX_EVENTS;
        if enough || withheld > MAX_WITHHELD || self.held.frames() >= MAX_FRAMES {
            return Some(self.release());
        }
        if seen.started && stream.release_at.is_none() {
            stream.release_at = clock::now().checked_add(MAX_CONTENT_WAIT);
        }
        None
    }

    /// Refuses an answer that is larger than the limit.
    fn beyond(&mut self, max: usize, withheld: usize) -> Option<Decision> {
        let full = withheld > max || self.held.frames() >= max.max(MAX_FRAMES);
        let why = "The upstream's answer is larger than what may be held back.";
        full.then(|| self.refuse_as("answer_too_large", why, ANOTHER))
    }

    /// Continues as a stream of JSON values.
    fn turn_to_array(&mut self) -> Option<Decision> {
        let PreludeContent::Answer(answer) = std::mem::replace(&mut self.content, PreludeContent::Over) else {
            return None;
        };
        let AnswerPrelude { dialect, host, first_content, .. } = answer;
        let ending = self.ending();
        let reader = Chosen::reader(Some(&dialect), Framing::Array);
        let state = StreamState::new(Arc::clone(&self.config), reader, Framing::Array, host, ending);
        let limit = ContentLimit::new(first_content, clock::now());
        self.content = PreludeContent::Stream(Box::new(StreamPrelude {
            state,
            limit,
            release_at: None,
            timer: LazyTimer::default(),
        }));
        for frame in std::mem::take(&mut self.held).into_frames() {
            if let Some(decision) = self.data(frame) {
                return Some(decision);
            }
        }
        None
    }

    /// Handles the end of the body, or its trailers.
    pub(super) fn end(&mut self, trailers: Option<Frame<Bytes>>) -> Decision {
        let decision = match &mut self.content {
            PreludeContent::Stream(_) => self.end_stream(),
            PreludeContent::Answer(..) => self.end_answer(),
            PreludeContent::Error(..) => {
                self.read_error();
                Decision::Release(BodyWatch::Nothing)
            }
            PreludeContent::Over => Decision::Release(BodyWatch::Nothing),
        };
        trailers.into_iter().for_each(|trailers| self.held.push(trailers));
        decision
    }

    fn end_stream(&mut self) -> Decision {
        let PreludeContent::Stream(stream) = &mut self.content else { return Decision::Release(BodyWatch::Nothing) };
        let ended = stream.state.end();
        let (seen, recognised) = (stream.state.seen(), stream.state.is_recognised());
        let truncated = stream.state.truncated();
        if stream.state.failure().is_some() {
            return self.refuse_failure();
        }
        match ended {
            // A marker alone is no answer.
            Ok(_) if recognised && !(seen.content || seen.reason) => self.refuse_truncated(truncated),
            Ok(rest) => {
                self.hold(Frame::data(rest));
                Decision::Release(BodyWatch::Nothing)
            }
            Err(truncated) => self.refuse_truncated(truncated),
        }
    }

    pub(super) fn end_answer(&mut self) -> Decision {
        let PreludeContent::Answer(answer) = std::mem::replace(&mut self.content, PreludeContent::Over) else {
            return Decision::Release(BodyWatch::Nothing);
        };
        let AnswerPrelude { reader, dialect, .. } = answer;
        let kind = dialect.kind();
        if reader.is_cut() || reader.first().is_none() {
            return self.refuse_truncated(StreamTruncated::new(kind, 0));
        }
        let answer = dialect.answer(reader);
        if let Some(fault) = &answer.fault {
            return self.refuse_answer(fault, kind);
        }
        let ending = self.ending();
        ending.set(answer.end.unwrap_or(End::Unknown));
        answer.usage.into_iter().for_each(|usage| ending.note_usage(usage));
        Decision::Release(BodyWatch::Nothing)
    }
}
