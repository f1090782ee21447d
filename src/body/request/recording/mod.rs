//! Records a request body while it streams, so that it can be sent more than once.
//!
//! # Why record while it streams?
//!
//! Collecting a body first delays the first attempt by the whole upload; cloning works only for buffers. So each attempt
//! gets a copy of the body that reads through to the original. The data is kept, as the original [`Bytes`], for further
//! copies. A later copy replays it and continues reading where the one before it stopped.
//!
//! Only the latest copy can be read: the current *generation*. An earlier copy, still held by a connection that has not
//! noticed its early answer, fails when it is polled, and is woken for that.
//!
//! The recording is bounded. A body that exceeds the limit streams on unrecorded; then there is no further copy.
//!
//! # Locking
//!
//! Several copies, on several threads, share a [`Record`]. The body itself is never polled under its lock: a copy takes
//! it out, polls it, and puts it back. Another copy waits for that.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use self::record::{NextRead, Phase, Record};
use crate::body::boxed::Polled;
use crate::call::Reservation;
use crate::error::{BoxError, ReplayUnavailable};
use crate::rt::sync::{Mutex, MutexGuard, lock};

mod record;

pub(super) struct Recording<B> {
    /// The body's size hint before it was read.
    hint: SizeHint,
    /// Where a sender stops reading, if known.
    length: Option<u64>,
    record: Mutex<Record<B>>,
}

/// A body that can be recorded.
pub(super) trait Recordable: Body<Data = Bytes, Error = BoxError> + Unpin {}

impl<B: Body<Data = Bytes, Error = BoxError> + Unpin> Recordable for B {}

/// How much of the body the attempts have read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadState {
    /// Nothing.
    Unread,
    /// A part.
    Partial,
    /// All of it.
    Whole,
    /// It exceeds the limit: it cannot be sent again.
    TooLarge,
    /// It failed.
    Failed,
}

/// The body, while it is polled outside the lock.
struct BorrowedBody<'a, B: Recordable> {
    recording: &'a Recording<B>,
    generation: u64,
    rest: Option<B>,
}

// === impl ReadState ===

impl ReadState {
    /// Whether all of the body can be sent again.
    pub(crate) const fn is_repeatable(self) -> bool {
        !matches!(self, Self::TooLarge | Self::Failed)
    }
}

// === impl Recording ===

impl<B: Recordable> Recording<B> {
    pub(super) fn new(body: B, hint: SizeHint, length: Option<u64>, limit: usize, held: Reservation) -> Self {
        Self { hint, length, record: Mutex::new(Record::new(body, limit, held)) }
    }

    /// Returns a recording with a part that was read ahead.
    pub(super) fn begun(first: Polled, body: B, hint: SizeHint, limit: usize, held: Reservation) -> Self {
        let mut record = Record::new(body, limit, held);
        if record.add(&first, false) {
            record.rest = None;
        }
        record.fail(first);
        Self { hint, length: hint.exact(), record: Mutex::new(record) }
    }

    /// Adds a layer that depends on this recording, which keeps up to `limit` bytes for it. Returns `false` if the copy
    /// of this generation would not read all of the body.
    pub(super) fn share(&self, generation: u64, limit: usize) -> bool {
        self.lock().share(generation, limit)
    }

    /// Begins a new generation, and wakes the reader of the last one.
    pub(super) fn restart(&self) -> u64 {
        let mut record = self.lock();
        let before = record.restart();
        let generation = record.generation;
        drop(record);
        before.inspect(Waker::wake_by_ref);
        generation
    }

    /// The same, unless the part that was read cannot be read again.
    pub(super) fn take_over(&self, limit: usize) -> ReadState {
        let mut record = self.lock();
        let state = self.state_of(&record, limit);
        let before = if state.is_repeatable() { record.restart() } else { None };
        drop(record);
        before.inspect(Waker::wake_by_ref);
        state
    }

    /// One of its layers needs no further copy.
    pub(super) fn release(&self) {
        self.lock().release();
    }

    /// Returns all of the body in one piece, once it has been read.
    pub(super) fn whole(&self) -> Option<Bytes> {
        self.lock().whole()
    }

    pub(super) fn state(&self, limit: usize) -> ReadState {
        self.state_of(&self.lock(), limit)
    }

    fn state_of(&self, record: &Record<B>, limit: usize) -> ReadState {
        // A sender of known length stops reading there, and may never see the end.
        let complete = record.rest.as_ref().is_some_and(B::is_end_stream)
            || self.length.is_some_and(|length| record.recorded() >= length);
        match record.phase {
            Phase::Failed => ReadState::Failed,
            _ if !record.is_kept() || record.recorded() > limit as u64 => ReadState::TooLarge,
            Phase::Ended => ReadState::Whole,
            Phase::Unread => ReadState::Unread,
            _ if complete => ReadState::Whole,
            _ => ReadState::Partial,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record<B>> {
        // A panic of the body happens outside the lock.
        lock(&self.record)
    }

    /// Returns the next frame of this generation, and the body itself, once only that is left to read.
    pub(super) fn poll_frame(&self, generation: u64, cx: &mut Context<'_>) -> (Polled, Option<B>) {
        let mut record = self.lock();
        if record.generation != generation {
            return (unavailable(), None);
        }
        if record.phase == Phase::Unread {
            record.phase = Phase::Reading;
        }
        match record.next() {
            NextRead::Data(data) => return (Poll::Ready(Some(Ok(Frame::data(data)))), None),
            NextRead::Trailers(trailers) => return (Poll::Ready(Some(Ok(Frame::trailers(trailers)))), None),
            NextRead::End => return (Poll::Ready(None), None),
            NextRead::Lost(Some(err)) => return (Poll::Ready(Some(Err(err))), None),
            NextRead::Lost(None) => return (unavailable(), None),
            NextRead::Rest => {}
        }
        let Some(mut rest) = record.rest.take() else {
            // The copy before is polling it on another thread, and will wake this one.
            let before = record.wait(cx.waker());
            drop((record, before));
            return (Poll::Pending, None);
        };
        let kept = record.is_kept();
        drop(record);
        if !kept {
            let polled = Pin::new(&mut rest).poll_frame(cx);
            return (polled, Some(rest));
        }
        BorrowedBody { recording: self, generation, rest: Some(rest) }.poll_frame(cx)
    }

    pub(super) fn is_end_stream(&self, generation: u64) -> bool {
        let record = self.lock();
        record.generation == generation
            && record.is_caught_up()
            && match record.phase {
                Phase::Unread | Phase::Reading => record.rest.as_ref().is_some_and(B::is_end_stream),
                Phase::Ended => true,
                Phase::Failed => false,
            }
    }

    pub(super) fn size_hint(&self, generation: u64) -> SizeHint {
        let record = self.lock();
        if record.generation != generation {
            return SizeHint::default();
        }
        // The same for each copy, so that each is framed alike: later knowledge is not added.
        let mut left = SizeHint::new();
        if let Some(upper) = self.hint.upper() {
            left.set_upper(upper.saturating_sub(record.delivered));
        }
        left.set_lower(self.hint.lower().saturating_sub(record.delivered));
        left
    }
}

impl<B> fmt::Debug for Recording<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("hint", &self.hint).finish_non_exhaustive()
    }
}

fn unavailable() -> Polled {
    Poll::Ready(Some(Err(BoxError::from(ReplayUnavailable::new()))))
}

// === impl BorrowedBody ===

impl<B: Recordable> BorrowedBody<'_, B> {
    /// Polls the body, adds the result to the record, and puts the body back into the record, or, if that no longer
    /// records, into the copy.
    fn poll_frame(mut self, cx: &mut Context<'_>) -> (Polled, Option<B>) {
        let mut polled = match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Pending,
        };
        let rest = self.rest.take();
        let mut record = self.recording.lock();
        let current = record.generation == self.generation;
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
            record.fail(std::mem::replace(&mut polled, unavailable()));
            // The copy that took over may wait for the body.
            let waiting = record.waiting.take();
            drop(record);
            waiting.inspect(Waker::wake_by_ref);
        }
        drop(dropped);
        (polled, live)
    }
}

impl<B: Recordable> Drop for BorrowedBody<'_, B> {
    // The body panicked: it is put back, and the next copy polls it again.
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
