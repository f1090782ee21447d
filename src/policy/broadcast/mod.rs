//! One answer that several readers read at their own pace: where each reader is, what must be held for them, and which
//! of them keeps the others waiting.
//!
//! # First a recording, then a window
//!
//! A broadcast begins as a *recording*: every part is held, so that a reader that joins late reads everything from the
//! first part on, and the whole can be replayed when it has ended. An answer that outgrows the limit goes on as a
//! *window*: no caller can join any more, and a part is dropped once every listener has read it. While the window is full,
//! the upstream is not polled: the readers that want more wait for the slowest. After [`Limits::lag`] of that, the
//! slowest are cut off.
//!
//! The recording is bounded by [`Limits::bytes`], and the window after it by the same number. (Each may exceed it by the
//! one part that did not fit.) A window that is fed by a producer that does not wait for room holds at most twice as
//! much, and the two parts that came last: then the slowest readers are cut off at once.

mod slab;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::slab::Slab;

/// How much is held, and how long the slowest reader is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes that a recording may have, and the window after it.
    pub(crate) bytes: usize,
    /// How long a reader that is a whole window behind may keep the others waiting.
    pub(crate) lag: Duration,
}

/// The parts of an answer, and the readers of it. `A` is attached to each reader (its waker).
#[derive(Debug)]
pub(crate) struct Broadcast<P, A> {
    limits: Limits,
    phase: Phase,
    parts: VecDeque<HeldPart<P>>,
    /// The number of the first part that is held. Parts are numbered from the beginning.
    first: u64,
    /// The number of the part that comes next.
    tip: u64,
    /// The sum of the costs of the parts that are held.
    cost: usize,
    readers: Slab<ReaderState<A>>,
    listeners: usize,
    /// Since when readers that have read everything have had to wait for the slowest.
    waiting_since: Option<Instant>,
    /// The store has no room for more: the window is full at any size.
    storage_full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All parts are held.
    Recording,
    /// All parts are held, and no more will come.
    Recorded,
    /// Parts that every listener has read are dropped.
    Window,
    /// Parts that every listener has read are dropped, and no more will come.
    WindowEnded,
}

#[derive(Debug)]
struct HeldPart<P> {
    part: P,
    /// Of the first, where it was merged of several.
    number: u64,
    cost: usize,
    /// How many listeners have not read it. Counted in a window only.
    unread: usize,
}

/// Where a reader is.
#[derive(Debug)]
struct ReaderState<A> {
    /// The number of the part that it reads next.
    next: u64,
    role: ReaderRole,
    attached: A,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReaderRole {
    /// Reads, and is waited for.
    Listener,
    /// Reads along while there is a recording, and is not waited for.
    Observer,
    /// Reads nothing: it is woken when something happens.
    Watcher,
    /// Was a listener, and was too slow.
    CutOff,
}

/// One reader of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReaderId(usize);

/// What a reader reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<P> {
    /// The next part.
    Part(P),
    /// Nothing yet.
    Wait,
    /// The end: everything was read, and no more will come.
    End,
    /// There is a gap: the reader was too slow, or is an observer and there is no recording any more.
    Lost,
}

/// Whether the upstream may be polled for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes.
    Free,
    /// Not before a reader reads, or this instant (`None`: beyond the clock's range).
    FullUntil(Option<Instant>),
    /// Yes, and readers were cut off that must be woken to learn of it.
    CutOff,
}

/// At most as many readers are looked through for one that stands between two parts.
const MAX_LOOKED_AT: usize = 8;

// === impl Broadcast ===

impl<P: Clone, A: Default> Broadcast<P, A> {
    pub(crate) fn new(limits: Limits) -> Self {
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

    /// Adds a listener, which reads from the first part on; `None` where that is no longer held.
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

    /// Adds a watcher: it reads nothing, and is woken when something happens.
    pub(crate) fn watch(&mut self) -> ReaderId {
        self.add(ReaderRole::Watcher)
    }

    fn add(&mut self, role: ReaderRole) -> ReaderId {
        ReaderId(self.readers.add(ReaderState { next: self.first, role, attached: A::default() }))
    }

    /// Makes an observer a listener, or a listener an observer. Returns whether it is what was asked for now: an
    /// observer has lost its place once there is no recording.
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

    /// Removes a reader, and returns what was attached to it.
    pub(crate) fn leave(&mut self, id: ReaderId) -> Option<A> {
        let reader = self.readers.remove(id.0)?;
        if reader.role == ReaderRole::Listener {
            self.remove_listener(reader.next);
        }
        Some(reader.attached)
    }

    /// A listener that would have read from part `next` on does not.
    fn remove_listener(&mut self, next: u64) {
        self.listeners -= 1;
        if !self.is_recording() {
            let read = self.index(next);
            self.parts.iter_mut().skip(read).for_each(|held| held.unread -= 1);
            self.drop_read_parts();
        }
    }

    /// How many readers are listeners.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners
    }

    pub(crate) fn attached(&mut self, id: ReaderId) -> Option<&mut A> {
        self.readers.get_mut(id.0).map(|reader| &mut reader.attached)
    }

    /// What is attached to the readers in place `from` and after it, each with its place.
    pub(crate) fn attached_from(&mut self, from: usize) -> impl Iterator<Item = (usize, &mut A)> {
        self.readers.iter_mut(from).map(|(place, reader)| (place, &mut reader.attached))
    }

    pub(crate) fn read(&mut self, id: ReaderId) -> Read<P> {
        let (recording, ended) = (self.is_recording(), self.has_ended());
        let Some(next) = self.readers.get(id.0).map(|reader| reader.next) else { return Read::Lost };
        let index = self.index(next);
        let behind = self.parts.get(index.saturating_add(1)).map_or(self.tip, |held| held.number);
        let Some(reader) = self.readers.get_mut(id.0) else { return Read::Lost };
        match reader.role {
            ReaderRole::Listener => {}
            ReaderRole::Observer if recording => {}
            ReaderRole::Watcher => return if ended { Read::End } else { Read::Wait },
            ReaderRole::Observer | ReaderRole::CutOff => return Read::Lost,
        }
        let Some(held) = self.parts.get_mut(index) else { return if ended { Read::End } else { Read::Wait } };
        reader.next = behind;
        let part = held.part.clone();
        if !recording {
            held.unread -= 1;
            self.drop_read_parts();
        }
        Read::Part(part)
    }

    /// Whether this reader has read everything that will come.
    pub(crate) fn is_at_end(&self, id: ReaderId) -> bool {
        self.has_ended() && self.is_at_tip(id)
    }

    /// Whether this reader has read everything that has come.
    pub(crate) fn is_at_tip(&self, id: ReaderId) -> bool {
        self.readers.get(id.0).is_some_and(|reader| reader.role == ReaderRole::Listener && reader.next == self.tip)
    }

    /// Appends the next part. A recording that would outgrow its limit by it becomes a window.
    pub(crate) fn push(&mut self, part: P, cost: usize) {
        if self.is_recording() && self.cost.saturating_add(cost) > self.limits.bytes {
            self.stop_recording();
        }
        // Only a producer that does not wait for room gets here. The newest part does not count: two readers may have seen
        // room for one part each, and no part is too large to be held alone.
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

    /// Appends the next part, which the listener `id` has read with all that came before: see [`is_at_tip`](Self::is_at_tip).
    /// It is made where it is held for others.
    pub(crate) fn push_read(&mut self, id: ReaderId, part: impl FnOnce() -> P, cost: usize) {
        if self.listeners > 1 || self.is_recording() {
            self.push(part(), cost);
            let is_counted = !self.is_recording();
            if let Some(held) = self.parts.back_mut().filter(|_| is_counted) {
                held.unread -= 1;
                self.drop_read_parts();
            }
        } else {
            // It is held for no other listener, and neither is any before it.
            self.tip += 1;
            self.first = self.tip;
        }
        let tip = self.tip;
        if let Some(reader) = self.readers.get_mut(id.0) {
            reader.next = tip;
        }
    }

    /// Merges the last part of a recording into the one before it, so that it costs nothing but its bytes: unless a reader has
    /// read the one and not the other, or `merge` does not. It returns what the two cost then.
    pub(crate) fn merge_last(&mut self, merge: impl FnOnce(&mut P, &P) -> Option<usize>) {
        if !self.is_recording() {
            return;
        }
        let Some(last) = self.parts.pop_back() else { return };
        let mut readers = self.readers.iter_mut(0).map(|(_, reader)| reader);
        // Of many readers one is mostly there, and to look for it would cost more than the merging saves.
        let is_between = readers.by_ref().take(MAX_LOOKED_AT).any(|reader| reader.next == last.number);
        let has_more = readers.next().is_some();
        let merged = match self.parts.back_mut() {
            Some(before) if !is_between && !has_more => merge(&mut before.part, &last.part).map(|cost| (before, cost)),
            _ => None,
        };
        match merged {
            Some((before, cost)) => {
                self.cost = self.cost.saturating_sub(before.cost).saturating_sub(last.cost).saturating_add(cost);
                before.cost = cost;
            }
            None => self.parts.push_back(last),
        }
    }

    /// From here on it is a window: no caller can join any more, and there will be no replay.
    pub(crate) fn stop_recording(&mut self) {
        if !self.is_recording() {
            return;
        }
        self.phase = if self.has_ended() { Phase::WindowEnded } else { Phase::Window };
        // Counts for each part the listeners that have not read it, in one pass: a listener whose next part this is adds
        // one, for this part and all that follow.
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

    /// No more parts will come.
    pub(crate) fn finish(&mut self) {
        self.phase = match self.phase {
            Phase::Recording | Phase::Recorded => Phase::Recorded,
            Phase::Window | Phase::WindowEnded => Phase::WindowEnded,
        };
    }

    /// Whether all parts are held, so that the answer can be joined and replayed.
    pub(crate) fn is_recording(&self) -> bool {
        matches!(self.phase, Phase::Recording | Phase::Recorded)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Recorded | Phase::WindowEnded)
    }

    /// How long a reader may keep the others waiting.
    pub(crate) fn lag(&self) -> Duration {
        self.limits.lag
    }

    /// The cost of everything that is held.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// The store has no room for more (or has some again): a recording becomes a window, and a window does not grow.
    pub(crate) fn set_storage_full(&mut self, storage_full: bool) {
        self.storage_full = storage_full;
        if storage_full {
            self.stop_recording();
        }
    }

    /// Whether readers that have read everything must wait for those that have not.
    pub(crate) fn is_full(&self) -> bool {
        !self.is_recording() && self.cost > 0 && (self.storage_full || self.cost >= self.limits.bytes)
    }

    /// Asked by a reader that has read everything and wants more.
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

    /// Stops waiting for the listeners that are furthest behind, until there is room.
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
        // Half of the window must have been read before the slowest reader is given the full time again: one that makes
        // room for a part at a time keeps the others waiting as much as one that makes none. And while there is no room
        // elsewhere, no size of the window lets them go on but none.
        if self.cost <= self.limits.bytes / 2 && !self.is_full() {
            self.waiting_since = None;
        }
    }

    #[inline]
    fn index(&self, number: u64) -> usize {
        // Most readers have read all there is.
        if number == self.tip { self.parts.len() } else { index_of(&self.parts, self.first, number) }
    }
}

/// Where the part with this number is, or would be. No reader is in the middle of one that was merged.
fn index_of<P>(parts: &VecDeque<HeldPart<P>>, first: u64, number: u64) -> usize {
    let direct = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
    // Nothing was merged before it.
    if parts.get(direct).is_some_and(|held| held.number == number) {
        return direct;
    }
    parts.partition_point(|held| held.number < number)
}
