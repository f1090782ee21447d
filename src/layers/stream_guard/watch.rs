//! Watches a body while it is forwarded.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::config::{Chosen, Config, NAME};
use super::refusal;
use super::state::{Readable, Seen, StreamState};
use crate::body::ending::Ending;
use crate::body::response::BodyRest;
use crate::error::{BoxError, FirstContentElapsed, StreamTruncated};
use crate::event::{Event, StreamFault};
use crate::proto::dialect::{AnswerReader, End, Framing};
use crate::rt::clock;
use crate::rt::timeout::Timeout;

/// The kind of watch.
#[derive(Debug)]
pub enum BodyWatch {
    Nothing,
    Stream(Box<StreamWatch>),
    Answer(Box<AnswerWatch>),
}

/// A stream of events.
#[derive(Debug)]
pub struct StreamWatch {
    pub(super) state: StreamState,
    pub(super) limit: ContentLimit,
}

/// A JSON answer that is too large to withhold.
#[derive(Debug)]
pub struct AnswerWatch {
    pub(super) config: Arc<Config>,
    pub(super) reader: AnswerReader,
    pub(super) dialect: Chosen,
    pub(super) ending: Ending,
    /// The remaining bytes, if known.
    pub(super) left: Option<u64>,
}

/// The time limit for the first content.
#[derive(Debug)]
pub(super) struct ContentLimit {
    after: Duration,
    /// `None`: no limit, or the content has come. After the end of the answer: when that of the stream is overdue.
    at: Option<Instant>,
    timeout: Timeout,
}

/// How long an upstream may stay silent after the end of the answer before its stream counts as ended. Many clients do not
/// wait at all.
const AFTER_END: Duration = Duration::from_secs(1);

/// The next step after a read.
#[derive(Debug)]
pub(super) enum WatchStep {
    /// Nothing yet: it is a part of an event.
    More,
    /// Forward this.
    Give(Frame<Bytes>),
    /// Drop the body, and end with this.
    End(BodyRest),
}

/// How a body fails.
struct Fail {
    /// The event for the caller.
    frame: Bytes,
    error: BoxError,
}

// === impl BodyWatch ===

impl BodyWatch {
    /// Handles a frame.
    #[inline]
    pub(super) fn frame(&mut self, frame: Frame<Bytes>) -> WatchStep {
        let Some(data) = frame.data_ref() else { return self.end(Some(frame)) };
        match self {
            Self::Nothing => WatchStep::Give(frame),
            Self::Stream(watch) => match watch.state.read(data) {
                Readable::All => {
                    watch.limit.settle(watch.state.seen());
                    WatchStep::Give(frame)
                }
                Readable::Part(part) => watch.part(part),
            },
            Self::Answer(watch) => {
                watch.reader.read(data);
                watch.left = watch.left.map(|left| left.saturating_sub(data.len() as u64));
                if watch.left == Some(0) { self.last(frame) } else { WatchStep::Give(frame) }
            }
        }
    }

    /// Handles the end of the body, or its trailers.
    #[cold]
    pub(super) fn end(&mut self, trailers: Option<Frame<Bytes>>) -> WatchStep {
        let ended = match self {
            Self::Nothing => Ok(Bytes::new()),
            Self::Stream(watch) => watch.end(),
            Self::Answer(watch) => watch.end(),
        };
        match ended {
            Ok(rest) => WatchStep::End(some_data(rest).chain(trailers).map(Ok).collect()),
            Err(fail) => fail.after(Bytes::new()),
        }
    }

    /// Handles the frame that completes the announced length: after that many bytes the caller would not read an error
    /// event.
    #[cold]
    fn last(&mut self, frame: Frame<Bytes>) -> WatchStep {
        let Self::Answer(watch) = self else { return WatchStep::Give(frame) };
        match watch.end() {
            Ok(_) => {
                *self = Self::Nothing;
                WatchStep::Give(frame)
            }
            Err(fail) => fail.after(Bytes::new()),
        }
    }

    /// Whether to hide the length of the body, since its end may differ.
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

    /// Handles silence. Ready when content is overdue, or the end of the stream after that of its answer.
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<WatchStep> {
        let Self::Stream(watch) = self else { return Poll::Pending };
        if watch.state.is_over() {
            ready!(watch.limit.poll_end(cx));
            return Poll::Ready(self.end(None));
        }
        watch.limit.poll(cx).map(|error| watch.elapsed(error).after(Bytes::new()))
    }
}

// === impl StreamWatch ===

impl StreamWatch {
    /// Forwards a part of a frame.
    #[cold]
    fn part(&mut self, part: Bytes) -> WatchStep {
        self.limit.settle(self.state.seen());
        if self.state.failure().is_some() {
            return self.failed().after(part);
        }
        if self.state.is_unproven() {
            return self.truncated(self.state.truncated()).after(part);
        }
        if part.is_empty() { WatchStep::More } else { WatchStep::Give(Frame::data(part)) }
    }

    fn end(&mut self) -> Result<Bytes, Fail> {
        let ended = self.state.end();
        if self.state.failure().is_some() {
            return Err(self.failed());
        }
        ended.map_err(|truncated| self.truncated(truncated))
    }

    fn failed(&self) -> Fail {
        // The limits in the head belong to the accepted answer, not to the error.
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
        Fail { frame: self.shown(frame.into()), error: error.into() }
    }

    fn fail(&self, fault: StreamFault, frame: Bytes, error: BoxError) -> Fail {
        self.config().emitter.emit(&Event::StreamFailed { fault });
        Fail { frame: self.shown(frame), error }
    }

    /// Returns the event for the caller, if this layer writes it, and there is a place for it.
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

    /// Fails without an event, which has no place here.
    fn fail(&self, fault: StreamFault, error: BoxError) -> Fail {
        self.config.emitter.emit(&Event::StreamFailed { fault });
        Fail { frame: Bytes::new(), error }
    }
}

// === impl Fail ===

impl Fail {
    /// Forwards the data before the error, then fails the body.
    fn after(self, before: Bytes) -> WatchStep {
        let data = some_data(before).chain(some_data(self.frame)).map(Ok);
        WatchStep::End(data.chain([Err(self.error)]).collect())
    }
}

fn some_data(data: Bytes) -> impl Iterator<Item = Frame<Bytes>> {
    Some(data).filter(|data| !data.is_empty()).map(Frame::data).into_iter()
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

    /// The wait ends with content or the end of a choice.
    #[inline]
    pub(super) fn settle(&mut self, seen: Seen) {
        if self.at.is_some() && (seen.content || seen.reason) {
            self.at = None;
        }
    }

    /// Ready when the limit has passed. Polled only during silence.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<FirstContentElapsed> {
        let Some(at) = self.at else { return Poll::Pending };
        self.timeout.poll_until(at, cx).map(|()| FirstContentElapsed::new(self.after))
    }

    /// Ready when the upstream has been silent for long enough after the end of the answer.
    #[cold]
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Frames that follow the end settle it, and the wait begins again.
        let at = *self.at.get_or_insert_with(|| clock::now() + AFTER_END);
        self.timeout.poll_until(at, cx)
    }
}
