//! One answer that several readers read at their own pace: tracks the position of each reader, the parts held for them,
//! and the reader that delays the others.
//!
//! # First a recording, then a window
//!
//! A broadcast begins as a *recording*: it holds every part, so that a reader that joins late reads from the first part
//! on, and the complete answer can be replayed. An answer that exceeds the limit continues as a *window*: no caller can
//! join any more, and a part is dropped once every listener has read it. While the window is full, the upstream is not
//! polled: readers that want more wait for the slowest. After [`LogLimits::lag`] the slowest are cut off.
//!
//! [`LogLimits::bytes`] bounds the recording, and the window after it. (Each may exceed it by the one part that did not
//! fit.) If the producer does not wait for room, the window holds at most twice as much, plus the two latest parts: then
//! the slowest readers are cut off at once.

mod slab;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::slab::Slab;

/// The limits on memory, and on the wait for the slowest reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogLimits {
    /// The size of a recording, and of the window after it, in bytes.
    pub(crate) bytes: usize,
    /// How long a reader that is a whole window behind may delay the others.
    pub(crate) lag: Duration,
}

/// The parts of an answer, and its readers. `A` is attached to each reader (its waker).
#[derive(Debug)]
// What each part reads and writes stands first.
#[repr(C)]
pub(crate) struct Broadcast<P, A> {
    phase: Phase,
    /// The store has no more room: the window counts as full at any size.
    storage_full: bool,
    readers: Slab<ReaderState<A>>,
    listeners: usize,
    /// The number of the next part.
    tip: u64,
    /// The total cost of the held parts.
    cost: usize,
    parts: VecDeque<HeldPart<P>>,
    limits: LogLimits,
    /// The number of the first held part. Parts are numbered from the beginning.
    first: u64,
    /// Since when readers that have read everything wait for the slowest.
    waiting_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All parts are held.
    Recording,
    /// All parts are held, and the answer has ended.
    Recorded,
    /// Parts that every listener has read are dropped.
    Window,
    /// Parts that every listener has read are dropped, and the answer has ended.
    WindowEnded,
}

#[derive(Debug)]
struct HeldPart<P> {
    part: P,
    /// Its number, and of the first one if others were added to it.
    number: u64,
    cost: usize,
    /// The number of listeners that have not read it. Counted only in a window.
    unread: usize,
}

/// The position of a reader.
#[derive(Debug)]
struct ReaderState<A> {
    /// The number of its next part.
    next: u64,
    role: ReaderRole,
    attached: A,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReaderRole {
    /// Reads, and is waited for.
    Listener,
    /// Reads along during a recording, and is not waited for.
    Observer,
    /// Reads nothing: it is woken on changes.
    Watcher,
    /// A listener that was too slow.
    CutOff,
}

/// One reader of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReaderId(usize);

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextPart<P> {
    /// The next part.
    Part(P),
    /// Nothing yet.
    Wait,
    /// The end of the answer.
    End,
    /// A gap: the reader was too slow, or is an observer after the recording.
    Lost,
}

/// Whether the upstream may be polled for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes.
    Free,
    /// Only after a reader has read, or at this instant (`None`: beyond the clock's range).
    FullUntil(Option<Instant>),
    /// Yes, and readers that were cut off must be woken.
    CutOff,
}

/// The most readers that are checked for one between two parts.
const MAX_LOOKED_AT: usize = 8;

// === impl Broadcast ===

impl<P, A: Default> Broadcast<P, A> {
    pub(crate) fn new(limits: LogLimits) -> Self {
        Self {
            limits,
            phase: Phase::Recording,
            parts: VecDeque::new(),
            first: 0,
            tip: 0,
            cost: 0,
            readers: Slab::new(),
            listeners: 0,
            waiting_since: None,
            storage_full: false,
        }
    }

    /// Adds a listener, which reads from the first part on; `None` if that part was dropped.
    pub(crate) fn join(&mut self) -> Option<ReaderId> {
        if !self.is_recording() {
            return None;
        }
        self.listeners += 1;
        Some(self.add(ReaderRole::Listener))
    }

    /// Adds an observer: a reader that is not waited for.
    pub(crate) fn observe(&mut self) -> Option<ReaderId> {
        self.is_recording().then(|| self.add(ReaderRole::Observer))
    }

    /// Adds a watcher: it reads nothing, and is woken on changes.
    pub(crate) fn watch(&mut self) -> ReaderId {
        self.add(ReaderRole::Watcher)
    }

    fn add(&mut self, role: ReaderRole) -> ReaderId {
        ReaderId(self.readers.add(ReaderState { next: self.first, role, attached: A::default() }))
    }

    /// Turns an observer into a listener, or a listener into an observer. Returns whether it succeeded: an observer loses
    /// its place at the end of the recording.
    pub(crate) fn set_listening(&mut self, id: ReaderId, listening: bool) -> bool {
        let recording = self.is_recording();
        let Some(reader) = self.readers.get_mut(id.0) else { return false };
        match (reader.role, listening) {
            (ReaderRole::Listener, true) | (ReaderRole::Observer, false) => true,
            (ReaderRole::Observer, true) if recording => {
                reader.role = ReaderRole::Listener;
                self.listeners += 1;
                true
            }
            (ReaderRole::Listener, false) => {
                reader.role = ReaderRole::Observer;
                let next = reader.next;
                self.remove_listener(next);
                true
            }
            _ => false,
        }
    }

    /// Removes a reader, and returns its attachment.
    pub(crate) fn leave(&mut self, id: ReaderId) -> Option<A> {
        let reader = self.readers.remove(id.0)?;
        if reader.role == ReaderRole::Listener {
            self.remove_listener(reader.next);
        }
        Some(reader.attached)
    }

    /// Removes a listener whose next part is `next`.
    fn remove_listener(&mut self, next: u64) {
        self.listeners -= 1;
        if !self.is_recording() {
            let read = self.index(next);
            self.parts.iter_mut().skip(read).for_each(|held| held.unread -= 1);
            self.drop_read_parts();
        }
    }

    /// The number of listeners.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners
    }

    pub(crate) fn attached(&mut self, id: ReaderId) -> Option<&mut A> {
        self.readers.get_mut(id.0).map(|reader| &mut reader.attached)
    }

    /// Returns the attachments of the readers from place `from` on, each with its place.
    pub(crate) fn attached_from(&mut self, from: usize) -> impl Iterator<Item = (usize, &mut A)> {
        self.readers.iter_mut(from).map(|(place, reader)| (place, &mut reader.attached))
    }

    /// Reads the next part, as `share` returns it.
    pub(crate) fn read_with<T>(&mut self, id: ReaderId, share: impl FnOnce(&mut P) -> T) -> NextPart<T> {
        let (recording, ended) = (self.is_recording(), self.has_ended());
        let Some(next) = self.readers.get(id.0).map(|reader| reader.next) else { return NextPart::Lost };
        let index = self.index(next);
        let behind = self.parts.get(index.saturating_add(1)).map_or(self.tip, |held| held.number);
        let Some(reader) = self.readers.get_mut(id.0) else { return NextPart::Lost };
        match reader.role {
            ReaderRole::Listener => {}
            ReaderRole::Observer if recording => {}
            ReaderRole::Watcher => return if ended { NextPart::End } else { NextPart::Wait },
            ReaderRole::Observer | ReaderRole::CutOff => return NextPart::Lost,
        }
        let Some(held) = self.parts.get_mut(index) else { return if ended { NextPart::End } else { NextPart::Wait } };
        reader.next = behind;
        let part = share(&mut held.part);
        if !recording {
            held.unread -= 1;
            self.drop_read_parts();
        }
        NextPart::Part(part)
    }

    /// Whether this reader has read the complete answer.
    pub(crate) fn is_at_end(&self, id: ReaderId) -> bool {
        self.has_ended() && self.is_at_tip(id)
    }

    /// Whether this reader has read all parts so far.
    pub(crate) fn is_at_tip(&self, id: ReaderId) -> bool {
        self.readers.get(id.0).is_some_and(|reader| reader.role == ReaderRole::Listener && reader.next == self.tip)
    }

    /// Appends the next part. A recording that it would push over the limit becomes a window.
    pub(crate) fn push(&mut self, part: P, cost: usize) {
        if self.is_recording() && self.cost.saturating_add(cost) > self.limits.bytes {
            self.stop_recording();
        }
        // Only a producer that does not wait for room gets here. The newest part does not count: two readers may each
        // have seen room for one part, and a single part may have any size.
        let newest = self.parts.back().map_or(0, |held| held.cost);
        if !self.is_recording() && self.cost.saturating_sub(newest) >= self.limits.bytes.saturating_mul(2).max(1) {
            self.cut_off();
        }
        self.cost = self.cost.saturating_add(cost);
        self.parts.push_back(HeldPart { part, number: self.tip, cost, unread: self.listeners });
        self.tip += 1;
        if !self.is_recording() {
            self.drop_read_parts();
        }
    }

    /// Appends the next part, which the listener `id` has already read, with all parts before it: see
    /// [`is_at_tip`](Self::is_at_tip). `part` is called only if others need it.
    pub(crate) fn push_read(&mut self, id: ReaderId, part: impl FnOnce() -> P, cost: usize) {
        if self.listeners > 1 || self.is_recording() {
            self.push(part(), cost);
            let is_counted = !self.is_recording();
            if let Some(held) = self.parts.back_mut().filter(|_| is_counted) {
                held.unread -= 1;
                self.drop_read_parts();
            }
        } else {
            // No other listener needs it, nor any part before it.
            self.tip += 1;
            self.first = self.tip;
        }
        let tip = self.tip;
        if let Some(reader) = self.readers.get_mut(id.0) {
            reader.next = tip;
        }
    }

    /// Adds the next part to the last one of a recording, so that it costs only its bytes: if no reader waits for it except
    /// `reader`, which has then read it, and `add` has room for it. Returns whether it did.
    pub(crate) fn add_to_last(
        &mut self,
        reader: Option<ReaderId>,
        cost: usize,
        add: impl FnOnce(&mut P) -> bool,
    ) -> bool {
        let sum = self.cost.saturating_add(cost);
        if !self.is_recording() || sum > self.limits.bytes || self.is_awaited(reader) {
            return false;
        }
        let Some(last) = self.parts.back_mut() else { return false };
        if !add(&mut last.part) {
            return false;
        }
        last.cost = last.cost.saturating_add(cost);
        self.cost = sum;
        self.tip += 1;
        if let Some(reader) = reader.and_then(|id| self.readers.get_mut(id.0)) {
            reader.next = self.tip;
        }
        true
    }

    /// The last part that is held.
    pub(crate) fn last_mut(&mut self) -> Option<&mut P> {
        self.parts.back_mut().map(|held| &mut held.part)
    }

    /// Whether a reader except `reader` may have read all parts so far.
    fn is_awaited(&mut self, reader: Option<ReaderId>) -> bool {
        let (tip, place) = (self.tip, reader.map(|id| id.0));
        let mut readers = self.readers.iter_mut(0);
        // With many readers one mostly has, and the search would cost more than it saves.
        let mut looked_at = readers.by_ref().take(MAX_LOOKED_AT);
        looked_at.any(|(at, reader)| reader.next == tip && Some(at) != place) || readers.next().is_some()
    }

    /// Turns the recording into a window: no caller can join any more, and there is no replay.
    pub(crate) fn stop_recording(&mut self) {
        if !self.is_recording() {
            return;
        }
        self.phase = if self.has_ended() { Phase::WindowEnded } else { Phase::Window };
        // For each part, the number of listeners that have not read it, in one pass: a listener adds one to its next part
        // and all that follow.
        let mut begin = vec![0_usize; self.parts.len()];
        for (_, reader) in self.readers.iter_mut(0).filter(|(_, reader)| reader.role == ReaderRole::Listener) {
            let read = index_of(&self.parts, self.first, reader.next);
            if let Some(from_here) = begin.get_mut(read) {
                *from_here += 1;
            }
        }
        let mut unread = 0;
        for (held, from_here) in self.parts.iter_mut().zip(begin) {
            unread += from_here;
            held.unread = unread;
        }
        self.drop_read_parts();
    }

    /// Ends the answer.
    pub(crate) fn finish(&mut self) {
        self.phase = match self.phase {
            Phase::Recording | Phase::Recorded => Phase::Recorded,
            Phase::Window | Phase::WindowEnded => Phase::WindowEnded,
        };
    }

    /// Whether all parts are held, so that callers can join and the answer can be replayed.
    pub(crate) fn is_recording(&self) -> bool {
        matches!(self.phase, Phase::Recording | Phase::Recorded)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Recorded | Phase::WindowEnded)
    }

    /// How long a reader may delay the others.
    pub(crate) fn lag(&self) -> Duration {
        self.limits.lag
    }

    /// The total cost of the held parts.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// Sets whether the store has room: without room, a recording becomes a window, and a window does not grow.
    pub(crate) fn set_storage_full(&mut self, storage_full: bool) {
        self.storage_full = storage_full;
        if storage_full {
            self.stop_recording();
        }
    }

    /// Whether readers that have read everything must wait for slower ones.
    pub(crate) fn is_full(&self) -> bool {
        !self.is_recording() && self.cost > 0 && (self.storage_full || self.cost >= self.limits.bytes)
    }

    /// Called for a reader that has read everything and wants more.
    pub(crate) fn room(&mut self, now: Instant) -> Room {
        if !self.is_full() {
            return Room::Free;
        }
        let since = *self.waiting_since.get_or_insert(now);
        let until = since.checked_add(self.limits.lag);
        if until.is_some_and(|until| now >= until) {
            self.cut_off();
            return Room::CutOff;
        }
        Room::FullUntil(until)
    }

    /// Cuts off the slowest listeners, until there is room.
    fn cut_off(&mut self) {
        while self.is_full() {
            let slowest = self.first;
            let mut found = false;
            for (_, reader) in self.readers.iter_mut(0) {
                if reader.role == ReaderRole::Listener && reader.next == slowest {
                    reader.role = ReaderRole::CutOff;
                    found = true;
                    self.listeners -= 1;
                    self.parts.iter_mut().for_each(|held| held.unread -= 1);
                }
            }
            self.drop_read_parts();
            if !found {
                break;
            }
        }
    }

    /// Drops the parts that every listener has read.
    fn drop_read_parts(&mut self) {
        while self.parts.front().is_some_and(|held| held.unread == 0) {
            if let Some(held) = self.parts.pop_front() {
                self.cost = self.cost.saturating_sub(held.cost);
                self.first = self.parts.front().map_or(self.tip, |held| held.number);
            }
        }
        // The slowest reader gets the full time again only after half of the window was read: otherwise a reader that
        // frees one part at a time would delay the others as long as one that frees none. While the store has no room,
        // only an empty window lets the others continue.
        if self.cost <= self.limits.bytes / 2 && !self.is_full() {
            self.waiting_since = None;
        }
    }

    #[inline]
    fn index(&self, number: u64) -> usize {
        // Most readers have read everything.
        if number == self.tip { self.parts.len() } else { index_of(&self.parts, self.first, number) }
    }
}

/// The index of the part with this number. No reader is between parts that are held as one.
fn index_of<P>(parts: &VecDeque<HeldPart<P>>, first: u64, number: u64) -> usize {
    let direct = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
    // Nothing was added to those before it.
    if parts.get(direct).is_some_and(|held| held.number == number) {
        return direct;
    }
    parts.partition_point(|held| held.number < number)
}
