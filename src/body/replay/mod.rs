//! A request body that can be sent more than once.
//!
//! # Why record while it streams?
//!
//! Collecting a body first delays the first attempt by the whole upload; cloning it works for buffers only. So each
//! attempt gets a copy of the body that reads through to the original, and what is read is kept, as the very [`Bytes`]
//! that came, for the copies that may follow. A later copy replays what is there and goes on reading where the one
//! before it stopped.
//!
//! Only the latest copy can be read. One that an earlier attempt still holds, as a connection does that has not noticed
//! that its answer came early, fails when it is polled, and is woken to be.
//!
//! What is kept is bounded. A body that grows beyond it lets go of everything and streams on, untouched; then there is
//! no other copy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body::{Body, Frame, SizeHint};

pub(crate) use self::head::Head;
use self::recording::Recording;
use super::boxed::{self, Polled};
use crate::error::BoxError;

mod head;
mod record;
mod recording;
#[cfg(test)]
mod tests;

/// What makes the copies: the layer's end of a recording. Dropping it says that no other copy will be asked for.
#[derive(Debug)]
pub(crate) struct Replay<B> {
    source: Source<B>,
}

#[derive(Debug)]
enum Source<B> {
    /// All of it, known from the start.
    Whole(Bytes),
    Recording(Arc<Recording<B>>),
}

/// The request body below [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer) and
/// [`FallbackLayer`](crate::FallbackLayer): the caller's, which can be sent more than once.
///
/// Frames, trailers, errors and length are those of the body inside. Where nothing can be repeated (the layer is off,
/// the body too large) it *is* the body inside.
#[derive(Debug)]
pub struct ReplayBody<B> {
    reader: Reader<B>,
}

#[derive(Debug)]
enum Reader<B> {
    /// The body itself, which nobody records, or nobody any longer.
    Live(B),
    /// All of it.
    Whole(Bytes),
    Recording {
        recording: Arc<Recording<B>>,
        take: u64,
    },
    Over,
}

/// How much of the body the attempts have read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing.
    Unread,
    /// A part.
    Partial,
    /// All of it.
    Whole,
    /// More than may be kept: it cannot be sent again.
    TooLarge,
    /// It failed.
    Failed,
}

// === impl Replay ===

impl<B: Body<Data = Bytes> + Unpin + 'static> Replay<B> {
    /// Records `body` up to `limit` bytes; gives it back if it, or the head, says that it is larger.
    pub(crate) fn new(body: B, limit: usize, head: &HeaderMap) -> Result<Self, ReplayBody<B>> {
        if body.is_end_stream() {
            return Ok(Self::whole(Bytes::new()));
        }
        let hint = body.size_hint();
        let length = hint.exact().or_else(|| content_length(head));
        if hint.lower().max(length.unwrap_or(0)) > limit as u64 {
            return Err(ReplayBody::live(body));
        }
        Ok(Self { source: Source::Recording(Arc::new(Recording::new(body, hint, length, limit))) })
    }

    /// The same, but looks first whether all of the body is there: then nothing need be recorded.
    ///
    /// To look is to begin reading, which makes a server tell a client that waits for that (`Expect: 100-continue`) to
    /// send its body: not before the upstream begins to read.
    pub(crate) fn look(mut body: B, limit: usize, head: &HeaderMap) -> Result<Self, ReplayBody<B>>
    where
        B::Error: Into<BoxError> + 'static,
    {
        let hint = body.size_hint();
        let is_small = hint.exact().is_some_and(|length| length <= limit as u64);
        if body.is_end_stream() || !is_small || head.contains_key(EXPECT) {
            return Self::new(body, limit, head);
        }
        // Whoever reads it asks again, with a waker.
        let first = boxed::poll_frame(Pin::new(&mut body), &mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Some(Ok(frame))) = &first {
            if let Some(data) = frame.data_ref().filter(|_| body.is_end_stream()) {
                return Ok(Self::whole(data.clone()));
            }
        }
        Ok(Self { source: Source::Recording(Arc::new(Recording::begun(first, body, hint, limit))) })
    }

    fn whole(data: Bytes) -> Self {
        Self { source: Source::Whole(data) }
    }

    /// A copy that begins at the first byte. The one before it can no longer be read.
    pub(crate) fn copy(&self) -> ReplayBody<B> {
        let reader = match &self.source {
            Source::Whole(data) => Reader::Whole(data.clone()),
            Source::Recording(recording) => {
                let take = recording.rewind();
                Reader::Recording { recording: recording.clone(), take }
            }
        };
        ReplayBody { reader }
    }

    /// How far it has come, and if another copy can follow, the one before it can no longer be read from now on: it
    /// would read on until there is nothing left to copy. Beyond the limit a body belongs to whoever reads it.
    pub(crate) fn take_over(&self) -> Progress {
        match &self.source {
            Source::Whole(_) => Progress::Whole,
            Source::Recording(recording) => recording.take_over(),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        match &self.source {
            Source::Whole(_) => Progress::Whole,
            Source::Recording(recording) => recording.progress(),
        }
    }

    /// All of the body in one piece, once it has been read.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        match &self.source {
            Source::Whole(data) => Some(data.clone()),
            Source::Recording(recording) => recording.whole(),
        }
    }
}

/// Of a body that does not know its length itself, as a stream in a proxy.
fn content_length(head: &HeaderMap) -> Option<u64> {
    head.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        if let Source::Recording(recording) = &self.source {
            recording.forget();
        }
    }
}

// === impl ReplayBody ===

impl<B> ReplayBody<B> {
    /// The body itself, unrecorded.
    pub(crate) fn live(body: B) -> Self {
        Self { reader: Reader::Live(body) }
    }

    /// Another body in its place.
    pub(crate) fn whole(data: Bytes) -> Self {
        Self { reader: Reader::Whole(data) }
    }
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
{
    #[inline(never)]
    fn poll_reader(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = match &mut self.reader {
            Reader::Live(body) => boxed::poll_frame(Pin::new(body), cx),
            Reader::Recording { recording, take } => match recording.poll_frame(*take, cx) {
                (polled, None) => polled,
                (polled, Some(rest)) => {
                    self.reader = Reader::Live(rest);
                    polled
                }
            },
            Reader::Whole(_) | Reader::Over => Poll::Ready(None),
        };
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.reader = Reader::Over;
        }
        polled
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if let Reader::Whole(data) = &mut self.reader {
            let data = std::mem::take(data);
            return Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))));
        }
        self.poll_reader(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.reader {
            Reader::Live(body) => body.is_end_stream(),
            Reader::Whole(data) => data.is_empty(),
            Reader::Recording { recording, take } => recording.is_end_stream(*take),
            Reader::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reader {
            Reader::Live(body) => body.size_hint(),
            Reader::Whole(data) => SizeHint::with_exact(data.len() as u64),
            Reader::Recording { recording, take } => recording.size_hint(*take),
            Reader::Over => SizeHint::with_exact(0),
        }
    }
}
