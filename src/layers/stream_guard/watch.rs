//! What is looked for in a body that is being handed on.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::config::{Chosen, Config, NAME};
use super::refusal;
use super::state::{Readable, Seen, StreamState};
use crate::body::ending::Ending;
use crate::error::{BoxError, FirstContentElapsed, StreamTruncated};
use crate::event::{Event, StreamFault};
use crate::proto::dialect::{AnswerReader, End, Framing};
use crate::rt::timeout::Timeout;

/// What is looked for.
#[derive(Debug)]
pub(super) enum BodyWatch {
    Nothing,
    Stream(Box<StreamWatch>),
    Answer(Box<AnswerWatch>),
}

/// A stream of events.
#[derive(Debug)]
pub(super) struct StreamWatch {
    pub(super) state: StreamState,
    pub(super) limit: ContentLimit,
}

/// A JSON answer that is too large to be withheld.
#[derive(Debug)]
pub(super) struct AnswerWatch {
    pub(super) config: Arc<Config>,
    pub(super) reader: AnswerReader,
    pub(super) dialect: Chosen,
    pub(super) ending: Ending,
    /// How much is still to come, where that is known.
    pub(super) left: Option<u64>,
}

/// How long the first content may take.
#[derive(Debug)]
pub(super) struct ContentLimit {
    after: Duration,
    /// `None`: there is no limit, or it has come.
    at: Option<Instant>,
    timeout: Timeout,
}

/// What is to be done with what was read.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet: it is a part of an event.
    More,
    /// This is handed on.
    Give(Frame<Bytes>),
    /// This is handed on, and then the body is over.
    Last(Option<Frame<Bytes>>, Option<Frame<Bytes>>),
    /// This is handed on, and then the body fails.
    Fail(Fail),
}

/// How a body fails.
#[derive(Debug)]
pub(super) struct Fail {
    /// What came before.
    pub(super) before: Bytes,
    /// What tells the caller.
    pub(super) frame: Bytes,
    pub(super) error: BoxError,
}

// === impl BodyWatch ===

impl BodyWatch {
    /// A frame has come.
    #[inline]
    pub(super) fn frame(&mut self, frame: Frame<Bytes>) -> Step {
        let Some(data) = frame.data_ref() else { return self.end(Some(frame)) };
        match self {
            Self::Nothing => Step::Give(frame),
            Self::Stream(watch) => match watch.state.read(data) {
                Readable::All => {
                    watch.limit.settle(watch.state.seen());
                    Step::Give(frame)
                }
                Readable::Part(part) => watch.part(part),
            },
            Self::Answer(watch) => {
                watch.reader.read(data);
                watch.left = watch.left.map(|left| left.saturating_sub(data.len() as u64));
                if watch.left == Some(0) { self.last(frame) } else { Step::Give(frame) }
            }
        }
    }

    /// The body is over, or has come to its trailers: nothing but those follows.
    #[cold]
    pub(super) fn end(&mut self, trailers: Option<Frame<Bytes>>) -> Step {
        let ended = match self {
            Self::Nothing => Ok(Bytes::new()),
            Self::Stream(watch) => watch.end(),
            Self::Answer(watch) => watch.end(),
        };
        match ended {
            Ok(rest) => Step::Last((!rest.is_empty()).then(|| Frame::data(rest)), trailers),
            Err(fail) => Step::Fail(fail),
        }
    }

    /// The answer is complete with this frame: a server that has sent as many bytes as it was promised does not tell of an error
    /// behind them.
    #[cold]
    fn last(&mut self, frame: Frame<Bytes>) -> Step {
        let Self::Answer(watch) = self else { return Step::Give(frame) };
        match watch.end() {
            Ok(_) => {
                *self = Self::Nothing;
                Step::Give(frame)
            }
            Err(fail) => Step::Fail(fail),
        }
    }

    /// Whether the length of the body is not to be told, since its end may turn out to be another one than it looks.
    pub(super) fn hides_length(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Stream(_) => true,
            Self::Answer(watch) => watch.left.is_none(),
        }
    }

    /// The body broke off.
    #[cold]
    pub(super) fn broke_off(&mut self) {
        if let Self::Stream(watch) = self {
            watch.state.broke_off();
        }
        *self = Self::Nothing;
    }

    /// Nothing has come. Ready when it should have.
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Fail> {
        let Self::Stream(watch) = self else { return Poll::Pending };
        watch.limit.poll(cx).map(|error| watch.elapsed(error))
    }
}

// === impl StreamWatch ===

impl StreamWatch {
    /// Not all of a frame is handed on.
    #[cold]
    fn part(&mut self, part: Bytes) -> Step {
        self.limit.settle(self.state.seen());
        if self.state.failure().is_some() {
            return Step::Fail(Fail { before: part, ..self.failed() });
        }
        if self.state.is_unproven() {
            return Step::Fail(Fail { before: part, ..self.truncated(self.state.truncated()) });
        }
        if part.is_empty() { Step::More } else { Step::Give(Frame::data(part)) }
    }

    fn end(&mut self) -> Result<Bytes, Fail> {
        let ended = self.state.end();
        if self.state.failure().is_some() {
            return Err(self.failed());
        }
        ended.map_err(|truncated| self.truncated(truncated))
    }

    fn failed(&self) -> Fail {
        // The limits that the head told of are those of the answer, which was accepted: they say nothing of the error.
        let error = self.state.failure().map(|failure| refusal::stream_error(&self.state, failure, &HeaderMap::new()));
        match error {
            Some(error) => self.fail(StreamFault::UpstreamError, error.frame().clone(), error.into()),
            None => self.truncated(self.state.truncated()),
        }
    }

    fn truncated(&self, truncated: StreamTruncated) -> Fail {
        let frame = truncated.frame(self.state.line_ending());
        self.fail(StreamFault::Truncated, frame.into(), truncated.into())
    }

    fn elapsed(&self, error: FirstContentElapsed) -> Fail {
        self.config().emitter.emit(&Event::BodyTimedOut { layer: NAME, after: error.after });
        let frame = error.frame(self.state.kind_as_framed(), self.state.next_sequence(), self.state.line_ending());
        Fail { before: Bytes::new(), frame: self.shown(frame.into()), error: error.into() }
    }

    fn fail(&self, fault: StreamFault, frame: Bytes, error: BoxError) -> Fail {
        self.config().emitter.emit(&Event::StreamFailed { fault });
        Fail { before: Bytes::new(), frame: self.shown(frame), error }
    }

    /// The event that tells the caller, where this layer is to write it, and there is a place for it.
    fn shown(&self, frame: Bytes) -> Bytes {
        let has_place = self.state.framing() != Framing::Array;
        if self.config().error_frames && has_place { frame } else { Bytes::new() }
    }

    fn config(&self) -> &Config {
        self.state.config()
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        self.state.abandoned();
    }
}

// === impl AnswerWatch ===

impl AnswerWatch {
    fn end(&mut self) -> Result<Bytes, Fail> {
        let reader = std::mem::take(&mut self.reader);
        if reader.is_cut() {
            return Err(self.fail(StreamFault::Truncated, StreamTruncated::new(self.dialect.kind(), 0).into()));
        }
        let answer = self.dialect.answer(reader);
        if let Some(fault) = &answer.fault {
            let error = refusal::judged(Some(fault), None, &HeaderMap::new(), &self.config);
            return Err(self.fail(StreamFault::UpstreamError, error.into()));
        }
        self.ending.set(answer.end.unwrap_or(End::Unknown));
        answer.usage.into_iter().for_each(|usage| self.ending.note_usage(usage));
        Ok(Bytes::new())
    }

    /// There is no place for an event in it.
    fn fail(&self, fault: StreamFault, error: BoxError) -> Fail {
        self.config.emitter.emit(&Event::StreamFailed { fault });
        Fail { before: Bytes::new(), frame: Bytes::new(), error }
    }
}

// === impl ContentLimit ===

impl ContentLimit {
    pub(super) fn new(after: Option<Duration>, now: Instant) -> Self {
        let after = after.unwrap_or(Duration::MAX);
        Self { after, at: now.checked_add(after), timeout: Timeout::default() }
    }

    /// No limit.
    pub(super) fn none() -> Self {
        Self { after: Duration::MAX, at: None, timeout: Timeout::default() }
    }

    /// There is nothing to wait for once content or the end of a choice has come.
    #[inline]
    pub(super) fn settle(&mut self, seen: Seen) {
        if self.at.is_some() && (seen.content || seen.reason) {
            self.at = None;
        }
    }

    /// Ready when the limit has passed. Asked only while nothing comes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<FirstContentElapsed> {
        let Some(at) = self.at else { return Poll::Pending };
        self.timeout.poll_until(at, cx).map(|()| FirstContentElapsed::new(self.after))
    }
}
