//! A record that several copies of a body read, on whichever threads.
//!
//! The body itself is never polled under the lock: it is taken out, polled, and put back. A copy that comes meanwhile
//! waits for that.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Progress;
use super::record::{Next, Phase, Record};
use crate::body::boxed::{self, Polled};
use crate::error::{BoxError, ReplayUnavailable};

pub(super) struct Recording<B> {
    /// What the body said of its length before it was read.
    hint: SizeHint,
    /// Where a sender stops reading, if it is known.
    length: Option<u64>,
    record: Mutex<Record<B>>,
}

/// The body, while it is polled outside of the lock.
struct BorrowedBody<'a, B> {
    recording: &'a Recording<B>,
    take: u64,
    rest: Option<B>,
}

// === impl Recording ===

impl<B> Recording<B> {
    pub(super) fn new(body: B, hint: SizeHint, length: Option<u64>, limit: usize) -> Self {
        Self { hint, length, record: Mutex::new(Record::new(body, limit)) }
    }

    /// With what was read ahead of it.
    pub(super) fn begun(first: Polled, body: B, hint: SizeHint, limit: usize) -> Self {
        let mut record = Record::new(body, limit);
        if record.add(&first, false) {
            record.rest = None;
        }
        record.fail(first);
        Self { hint, length: hint.exact(), record: Mutex::new(record) }
    }

    /// Begins a new take, and tells whoever reads the one before.
    pub(super) fn rewind(&self) -> u64 {
        let mut record = self.lock();
        let before = record.rewind();
        let take = record.take;
        drop(record);
        before.inspect(Waker::wake_by_ref);
        take
    }

    /// The same, unless what has been read of it cannot be read again.
    pub(super) fn take_over(&self) -> Progress
    where
        B: Body,
    {
        let mut record = self.lock();
        let progress = self.progress_of(&record);
        let before = if record.is_kept() { record.rewind() } else { None };
        drop(record);
        before.inspect(Waker::wake_by_ref);
        progress
    }

    /// No other take will come.
    pub(super) fn forget(&self) {
        self.lock().forget();
    }

    pub(super) fn whole(&self) -> Option<Bytes> {
        self.lock().whole()
    }

    fn progress_of(&self, record: &Record<B>) -> Progress
    where
        B: Body,
    {
        // A sender of known length stops reading there, and may never see the end.
        let complete = record.rest.as_ref().is_some_and(B::is_end_stream)
            || self.length.is_some_and(|length| record.recorded() >= length);
        match record.phase {
            Phase::Failed => Progress::Failed,
            _ if !record.is_kept() => Progress::TooLarge,
            Phase::Ended => Progress::Whole,
            Phase::Unread => Progress::Unread,
            _ if complete => Progress::Whole,
            _ => Progress::Partial,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record<B>> {
        // A body that panicked did so outside of the lock.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Recording<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    /// The next frame of this take, and the body itself, once that is all that is left to read of it.
    pub(super) fn poll_frame(&self, take: u64, cx: &mut Context<'_>) -> (Polled, Option<B>)
    where
        B::Error: Into<BoxError> + 'static,
    {
        let mut record = self.lock();
        if record.take != take {
            return (Poll::Ready(Some(Err(ReplayUnavailable::new().into()))), None);
        }
        if record.phase == Phase::Unread {
            record.phase = Phase::Reading;
        }
        match record.next() {
            Next::Data(data) => return (Poll::Ready(Some(Ok(Frame::data(data)))), None),
            Next::Trailers(trailers) => return (Poll::Ready(Some(Ok(Frame::trailers(trailers)))), None),
            Next::End => return (Poll::Ready(None), None),
            Next::Lost(err) => {
                return (Poll::Ready(Some(Err(err.unwrap_or_else(|| ReplayUnavailable::new().into())))), None);
            }
            Next::Rest => {}
        }
        let Some(rest) = record.rest.take() else {
            // The copy before is polling it at this moment, on another thread, and will wake us.
            let before = record.wait(cx.waker());
            drop((record, before));
            return (Poll::Pending, None);
        };
        let kept = record.is_kept();
        drop(record);
        if !kept {
            let mut rest = rest;
            let polled = boxed::poll_frame(Pin::new(&mut rest), cx);
            return (polled, Some(rest));
        }
        BorrowedBody { recording: self, take, rest: Some(rest) }.poll_frame(cx)
    }

    pub(super) fn is_end_stream(&self, take: u64) -> bool {
        let record = self.lock();
        record.take == take
            && record.is_caught_up()
            && match record.phase {
                Phase::Unread | Phase::Reading => record.rest.as_ref().is_some_and(B::is_end_stream),
                Phase::Ended => true,
                Phase::Failed => false,
            }
    }

    pub(super) fn size_hint(&self, take: u64) -> SizeHint {
        let record = self.lock();
        if record.take != take {
            return SizeHint::default();
        }
        // The same for each copy, so that each is framed alike: what is known once it was read is not added.
        let mut left = SizeHint::new();
        if let Some(upper) = self.hint.upper() {
            left.set_upper(upper.saturating_sub(record.delivered));
        }
        left.set_lower(self.hint.lower().saturating_sub(record.delivered));
        left
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress_of(&self.lock())
    }
}

impl<B> fmt::Debug for Recording<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("hint", &self.hint).finish_non_exhaustive()
    }
}

// === impl BorrowedBody ===

impl<B> BorrowedBody<'_, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
{
    /// Polls the body, adds what came to the record, and gives the body back: to the record, or, where it records no
    /// longer, to the copy.
    fn poll_frame(mut self, cx: &mut Context<'_>) -> (Polled, Option<B>) {
        let mut polled = match &mut self.rest {
            Some(rest) => boxed::poll_frame(Pin::new(rest), cx),
            None => Poll::Pending,
        };
        let rest = self.rest.take();
        let mut record = self.recording.lock();
        let current = record.take == self.take;
        let over = record.add(&polled, current);
        let mut dropped = None;
        let mut live = None;
        if over {
            dropped = rest;
        } else if current && !record.is_kept() && record.is_caught_up() {
            live = rest;
        } else {
            record.rest = rest;
        }
        if current {
            let before = if polled.is_pending() { record.wait(cx.waker()) } else { None };
            drop((record, before));
        } else {
            record.fail(std::mem::replace(&mut polled, Poll::Ready(Some(Err(ReplayUnavailable::new().into())))));
            // Whoever took over may be waiting for the body to come back.
            let waiting = record.waiting.take();
            drop(record);
            waiting.inspect(Waker::wake_by_ref);
        }
        drop(dropped);
        (polled, live)
    }
}

impl<B> Drop for BorrowedBody<'_, B> {
    // The body panicked: it goes back as it is, and whoever polls it next sees what it does then.
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            let mut record = self.recording.lock();
            record.rest = Some(rest);
            let waiting = record.waiting.take();
            drop(record);
            waiting.inspect(Waker::wake_by_ref);
        }
    }
}
