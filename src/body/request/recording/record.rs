//! The recorded part of a request body, and the position of the current copy.
//!
//! The plain half of [`recording`](super): it polls nothing, and is always used under a lock.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::body::boxed::Polled;
use crate::call::Reservation;
use crate::error::BoxError;

/// One recording, and the position of its current copy.
///
/// Only the latest copy counts: the current generation. All positions below are its own, and a new generation begins at
/// the first byte.
#[derive(Debug)]
pub(super) struct Record<B> {
    pub(super) generation: u64,
    /// The body itself. Absent while a copy polls it, and after its end.
    pub(super) rest: Option<B>,
    pub(super) phase: Phase,
    /// The reader of the current generation, if it waits.
    pub(super) waiting: Option<Waker>,
    /// The number of layers that may need another copy. With 0, delivered data is dropped.
    sharers: usize,
    limit: usize,
    /// Released when nothing is kept any longer.
    reservation: Option<Reservation>,
    frames: VecDeque<Bytes>,
    /// Small frames, joined: they come after `frames`, and the current generation has had them.
    joined: BytesMut,
    trailers: Option<HeaderMap>,
    /// An undelivered error.
    failed: Option<BoxError>,
    recorded: usize,
    /// How many of `frames` the current generation has had, their bytes, and whether it had the trailers.
    next: usize,
    pub(super) delivered: u64,
    trailers_delivered: bool,
    /// Whether a new generation may come: then delivered data is kept.
    kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been read.
    Unread,
    /// There may be more to read.
    Reading,
    /// The body has ended, and all of it is recorded.
    Ended,
    /// It failed: no copy can read all of it.
    Failed,
}

/// The next read of the current generation.
pub(super) enum NextRead {
    Data(Bytes),
    Trailers(HeaderMap),
    /// From the body.
    Rest,
    End,
    /// The body failed. The first reader gets the error.
    Lost(Option<BoxError>),
}

/// This many frames are shared unchanged. A shared frame pins the buffer that it is a slice of: a sender of single bytes
/// would pin a read buffer with each of them (8 KiB in hyper).
const MAX_SMALL_SHARED: usize = 64;
/// A larger frame is always shared: it fills most of what it pins.
const SMALL: usize = 4 * 1024;

// === impl Record ===

impl<B> Record<B> {
    pub(super) fn new(rest: B, limit: usize, reservation: Reservation) -> Self {
        Self {
            generation: 0,
            rest: Some(rest),
            phase: Phase::Unread,
            waiting: None,
            sharers: 1,
            limit,
            reservation: Some(reservation),
            frames: VecDeque::new(),
            joined: BytesMut::new(),
            trailers: None,
            failed: None,
            recorded: 0,
            next: 0,
            delivered: 0,
            trailers_delivered: false,
            kept: true,
        }
    }

    /// Adds a layer that depends on this record: see [`Recording::share`](super::Recording::share).
    pub(super) fn share(&mut self, generation: u64, limit: usize) -> bool {
        let unread = self.generation == generation && self.delivered == 0 && !self.trailers_delivered;
        if !unread || !self.is_kept() {
            return false;
        }
        self.sharers += 1;
        self.limit = self.limit.max(limit);
        true
    }

    /// Removes a layer that depends on it.
    pub(super) fn release(&mut self) {
        self.sharers = self.sharers.saturating_sub(1);
        if self.sharers == 0 {
            self.stop_recording();
        }
    }

    /// Stores the waker of a task. Returns the previous one, to be dropped outside the lock.
    pub(super) fn wait(&mut self, waker: &Waker) -> Option<Waker> {
        match &self.waiting {
            Some(waiting) if waiting.will_wake(waker) => None,
            _ => self.waiting.replace(waker.clone()),
        }
    }

    /// Begins a new generation. Returns the reader of the last one, to be woken.
    pub(super) fn restart(&mut self) -> Option<Waker> {
        self.flush();
        self.generation += 1;
        self.next = 0;
        self.delivered = 0;
        self.trailers_delivered = false;
        self.waiting.take()
    }

    pub(super) fn next(&mut self) -> NextRead {
        let recorded = if self.kept { self.frames.get(self.next).cloned() } else { self.frames.pop_front() };
        if let Some(data) = recorded {
            self.next += usize::from(self.kept);
            self.delivered += data.len() as u64;
            return NextRead::Data(data);
        }
        match self.phase {
            Phase::Unread | Phase::Reading => NextRead::Rest,
            Phase::Ended => match self.trailers.clone().filter(|_| !self.trailers_delivered) {
                Some(trailers) => {
                    self.trailers_delivered = true;
                    NextRead::Trailers(trailers)
                }
                None => NextRead::End,
            },
            Phase::Failed => NextRead::Lost(self.failed.take()),
        }
    }

    /// Adds the result of a read; returns whether that was the end. `current`: the current generation has read it.
    pub(super) fn add(&mut self, polled: &Polled, current: bool) -> bool {
        match polled {
            Poll::Pending => return false,
            Poll::Ready(None) => self.finish(None, current),
            Poll::Ready(Some(Err(_))) => self.phase = Phase::Failed,
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => {
                    self.push(data, current);
                    return false;
                }
                None => self.finish(frame.trailers_ref().cloned(), current),
            },
        }
        true
    }

    /// Keeps an error for the next reader.
    pub(super) fn fail(&mut self, polled: Polled) {
        if let Poll::Ready(Some(Err(err))) = polled {
            self.failed = Some(err);
        }
    }

    fn push(&mut self, data: &Bytes, current: bool) {
        if current {
            self.delivered += data.len() as u64;
        }
        self.recorded = self.recorded.saturating_add(data.len());
        let fits = |held: &mut Reservation| held.grow(data.len());
        if self.kept && (self.recorded > self.limit || !self.reservation.as_mut().is_some_and(fits)) {
            self.stop_recording();
        }
        if current && (!self.kept || data.is_empty()) {
            return;
        }
        if current && data.len() < SMALL && self.frames.len() >= MAX_SMALL_SHARED {
            self.joined.extend_from_slice(data);
            return;
        }
        self.flush();
        self.frames.push_back(data.clone());
        self.next += usize::from(current);
    }

    /// Adds the trailers, which end the body.
    fn finish(&mut self, trailers: Option<HeaderMap>, current: bool) {
        self.phase = Phase::Ended;
        self.trailers_delivered = current;
        self.trailers = trailers;
    }

    /// No new generation will come: drops the data that the current one has had.
    fn stop_recording(&mut self) {
        self.kept = false;
        self.frames.drain(..self.next.min(self.frames.len()));
        self.next = 0;
        self.joined = BytesMut::new();
        self.reservation = None;
    }

    /// Whether a new generation could read the same data again.
    pub(super) fn is_kept(&self) -> bool {
        self.kept && self.phase != Phase::Failed
    }

    /// The number of bytes read from the body so far.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded as u64
    }

    /// Whether the current generation has had all recorded data.
    pub(super) fn is_caught_up(&self) -> bool {
        let frames = if self.kept { self.next == self.frames.len() } else { self.frames.is_empty() };
        frames && (self.trailers.is_none() || self.trailers_delivered)
    }

    /// Returns the complete body in one piece. A single frame is not copied.
    pub(super) fn whole(&mut self) -> Option<Bytes> {
        if self.phase != Phase::Ended || !self.kept {
            return None;
        }
        self.flush();
        if self.frames.len() < 2 {
            return Some(self.frames.front().cloned().unwrap_or_default());
        }
        let mut whole = BytesMut::with_capacity(self.recorded);
        self.frames.iter().for_each(|data| whole.extend_from_slice(data));
        Some(whole.freeze())
    }

    /// Turns the joined data into a frame; the current generation is after it.
    fn flush(&mut self) {
        if !self.joined.is_empty() {
            self.frames.push_back(self.joined.split().freeze());
            self.next += 1;
        }
    }
}
