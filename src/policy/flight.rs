//! One call that several listen to: who is where, what must be held for them, and who holds up the others.
//!
//! # Recording, then a window
//!
//! A flight begins by recording. Nothing is let go of, so a newcomer can hear everything from the first part on, and
//! what was recorded can be replayed when it is over. A call that outgrows the recording goes on as a window: nobody
//! new may join, what everyone has read is let go of, and when the window is full the upstream has to wait for the
//! slowest. Nobody may keep the others waiting like that for long: whoever does is cut off.
//!
//! While it records, what is held is bounded by the recording's limit; after that, by the same number for the window.
//! (Each may be exceeded by the one part that was on its way.)

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much is held, and for whom how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes that a recording may have, and a window after it.
    pub(crate) bytes: usize,
    /// How long a reader that is a whole window behind may keep the others waiting.
    pub(crate) lag: Duration,
}

/// The parts of a call, and its readers. `A` is what is attached to each of them (what wakes it).
#[derive(Debug)]
pub(crate) struct Flight<P, A> {
    limits: Limits,
    stage: Stage,
    parts: VecDeque<Held<P>>,
    /// The number of the first part that is held. Parts are numbered from the beginning.
    first: u64,
    /// What is held costs this much.
    cost: usize,
    readers: Slots<Reader<A>>,
    /// The readers who are counted: not the observers, and not those who were cut off.
    listeners: usize,
    /// Somebody has had to wait for the slowest, since then.
    stalled: Option<Instant>,
    /// There is no room elsewhere: the window is full at whatever size it has.
    storage_full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// All parts are held.
    Recording,
    /// As before, and no more will come.
    Recorded,
    /// What all have read is let go of.
    Window,
    /// As before, and no more will come.
    Past,
}

#[derive(Debug)]
struct Held<P> {
    part: P,
    cost: usize,
    /// How many listeners have not read it. Counted in a window only.
    unread: usize,
}

#[derive(Debug)]
struct Reader<A> {
    /// The number of the part that it reads next.
    next: u64,
    role: Role,
    attached: A,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Listener,
    /// Reads along as long as there is a recording, and nobody waits for it.
    Observer,
    /// Reads nothing: it keeps the call going while nobody listens.
    Keeper,
    /// Was a listener, and too slow.
    CutOff,
}

/// One reader of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReaderId(usize);

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<P> {
    /// The next part.
    Part(P),
    /// Nothing yet.
    Wait,
    /// All was read, and no more will come.
    End,
    /// It was too slow, or an observer of what is no longer recorded: there is a gap before it.
    Lost,
}

/// Whether the upstream may be asked for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may.
    Free,
    /// Not before somebody reads, or it is then (`None`: beyond the clock's range).
    FullUntil(Option<Instant>),
    /// Somebody was cut off, who may be told; it may now.
    CutOff,
}

/// Places that are numbered and used again. The first costs no allocation: most flights have one reader.
#[derive(Debug)]
struct Slots<T> {
    first: Option<T>,
    rest: Vec<Option<T>>,
    vacant: Vec<usize>,
}

// === impl Flight ===

impl<P: Clone, A: Default> Flight<P, A> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Recording,
            parts: VecDeque::new(),
            first: 0,
            cost: 0,
            readers: Slots { first: None, rest: Vec::new(), vacant: Vec::new() },
            listeners: 0,
            stalled: None,
            storage_full: false,
        }
    }

    /// A new reader, who will hear all from the first part on; `None` where that is no longer there.
    pub(crate) fn join(&mut self) -> Option<ReaderId> {
        if !self.is_recording() {
            return None;
        }
        self.listeners += 1;
        Some(self.enter(Role::Listener))
    }

    /// A reader for whom nobody waits.
    pub(crate) fn observe(&mut self) -> Option<ReaderId> {
        self.is_recording().then(|| self.enter(Role::Observer))
    }

    /// Somebody who reads nothing, and wants to know what happens.
    pub(crate) fn keep(&mut self) -> ReaderId {
        self.enter(Role::Keeper)
    }

    fn enter(&mut self, role: Role) -> ReaderId {
        self.readers.add(Reader { next: self.first, role, attached: A::default() })
    }

    /// A reader goes away, with what was attached to it.
    pub(crate) fn leave(&mut self, id: ReaderId) -> Option<A> {
        let reader = self.readers.remove(id)?;
        if reader.role == Role::Listener {
            self.unlisten(reader.next);
        }
        Some(reader.attached)
    }

    /// Somebody who would have read from part `next` on does not.
    fn unlisten(&mut self, next: u64) {
        self.listeners -= 1;
        if !self.is_recording() {
            let read = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
            self.parts.iter_mut().skip(read).for_each(|held| held.unread -= 1);
            self.let_go();
        }
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners
    }

    pub(crate) fn attached(&mut self, id: ReaderId) -> Option<&mut A> {
        self.readers.get_mut(id).map(|reader| &mut reader.attached)
    }

    /// What is attached to the readers from `from` on, by their places.
    pub(crate) fn attached_from(&mut self, from: usize) -> impl Iterator<Item = (usize, &mut A)> {
        self.readers.iter_mut(from).map(|(place, reader)| (place, &mut reader.attached))
    }

    pub(crate) fn read(&mut self, id: ReaderId) -> Read<P> {
        let (recording, over) = (self.is_recording(), self.is_over());
        let Some(reader) = self.readers.get_mut(id) else { return Read::Lost };
        match reader.role {
            Role::Listener => {}
            Role::Observer if recording => {}
            Role::Keeper => return if over { Read::End } else { Read::Wait },
            Role::Observer | Role::CutOff => return Read::Lost,
        }
        let index = usize::try_from(reader.next - self.first).unwrap_or(usize::MAX);
        let Some(held) = self.parts.get_mut(index) else { return if over { Read::End } else { Read::Wait } };
        reader.next += 1;
        let part = held.part.clone();
        if !recording {
            held.unread -= 1;
            self.let_go();
        }
        Read::Part(part)
    }

    /// Whether this reader has read all there will be.
    pub(crate) fn is_at_end(&self, id: ReaderId) -> bool {
        self.is_over() && self.is_at_tip(id)
    }

    /// Whether this reader has read all there is.
    pub(crate) fn is_at_tip(&self, id: ReaderId) -> bool {
        let tip = self.first + self.parts.len() as u64;
        self.readers.get(id).is_some_and(|reader| reader.role == Role::Listener && reader.next == tip)
    }

    /// The upstream said this. A recording that would outgrow its limit by it ends here.
    pub(crate) fn push(&mut self, part: P, cost: usize) {
        if self.is_recording() && self.cost.saturating_add(cost) > self.limits.bytes {
            self.stop_recording();
        }
        self.cost = self.cost.saturating_add(cost);
        self.parts.push_back(Held { part, cost, unread: self.listeners });
        if !self.is_recording() {
            self.let_go();
        }
    }

    /// Recording => Window: nobody new may join, and nothing will be replayed.
    pub(crate) fn stop_recording(&mut self) {
        if !self.is_recording() {
            return;
        }
        self.stage = if self.is_over() { Stage::Past } else { Stage::Window };
        // Counts for each part who has not read it, in one pass: from a part on, one more listener has not.
        let mut begin = vec![0_usize; self.parts.len()];
        for (_, reader) in self.readers.iter_mut(0).filter(|(_, reader)| reader.role == Role::Listener) {
            let read = usize::try_from(reader.next - self.first).unwrap_or(usize::MAX);
            if let Some(from_here) = begin.get_mut(read) {
                *from_here += 1;
            }
        }
        let mut unread = 0;
        for (held, from_here) in self.parts.iter_mut().zip(begin) {
            unread += from_here;
            held.unread = unread;
        }
        self.let_go();
    }

    /// Recording => Recorded, Window => Past.
    pub(crate) fn finish(&mut self) {
        self.stage = match self.stage {
            Stage::Recording | Stage::Recorded => Stage::Recorded,
            Stage::Window | Stage::Past => Stage::Past,
        };
    }

    /// Whether all parts are held, so that it can be joined and replayed.
    pub(crate) fn is_recording(&self) -> bool {
        matches!(self.stage, Stage::Recording | Stage::Recorded)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Recorded | Stage::Past)
    }

    /// How long a reader may keep the others waiting.
    pub(crate) fn lag(&self) -> Duration {
        self.limits.lag
    }

    /// What is held costs this much.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// There is no room for more elsewhere (or there is again): a recording ends, a window does not grow.
    pub(crate) fn set_storage_full(&mut self, storage_full: bool) {
        self.storage_full = storage_full;
        if storage_full {
            self.stop_recording();
        }
    }

    /// Whether somebody who has read all must wait for others who have not.
    pub(crate) fn is_full(&self) -> bool {
        !self.is_recording() && (self.cost >= self.limits.bytes || (self.storage_full && self.cost > 0))
    }

    /// Asked by a reader who has read all and wants more.
    pub(crate) fn room(&mut self, now: Instant) -> Room {
        if !self.is_full() {
            return Room::Free;
        }
        let since = *self.stalled.get_or_insert(now);
        let until = since.checked_add(self.limits.lag);
        if until.is_some_and(|until| now >= until) {
            self.cut_off();
            return Room::CutOff;
        }
        Room::FullUntil(until)
    }

    /// Whoever is a whole window behind is no longer waited for.
    fn cut_off(&mut self) {
        while self.is_full() {
            let slowest = self.first;
            let mut found = false;
            for (_, reader) in self.readers.iter_mut(0) {
                if reader.role == Role::Listener && reader.next == slowest {
                    reader.role = Role::CutOff;
                    found = true;
                    self.listeners -= 1;
                    self.parts.iter_mut().for_each(|held| held.unread -= 1);
                }
            }
            self.let_go();
            if !found {
                break;
            }
        }
    }

    /// Lets go of what everyone has read.
    fn let_go(&mut self) {
        while self.parts.front().is_some_and(|held| held.unread == 0) {
            if let Some(held) = self.parts.pop_front() {
                self.cost -= held.cost;
                self.first += 1;
            }
        }
        // Half of a window must have been read before the others' patience begins anew: a reader that makes room for
        // one part at a time keeps them waiting as much as one that makes none.
        if self.cost <= self.limits.bytes / 2 {
            self.stalled = None;
        }
    }
}

// === impl Slots ===

impl<T> Slots<T> {
    fn add(&mut self, item: T) -> ReaderId {
        if self.first.is_none() {
            self.first = Some(item);
            return ReaderId(0);
        }
        if let Some(place) = self.vacant.pop() {
            if let Some(slot) = self.rest.get_mut(place) {
                *slot = Some(item);
                return ReaderId(place + 1);
            }
        }
        self.rest.push(Some(item));
        ReaderId(self.rest.len())
    }

    fn remove(&mut self, id: ReaderId) -> Option<T> {
        let Some(place) = id.0.checked_sub(1) else { return self.first.take() };
        let removed = self.rest.get_mut(place).and_then(Option::take);
        if removed.is_some() {
            self.vacant.push(place);
        }
        removed
    }

    fn get(&self, id: ReaderId) -> Option<&T> {
        match id.0.checked_sub(1) {
            None => self.first.as_ref(),
            Some(place) => self.rest.get(place).and_then(Option::as_ref),
        }
    }

    fn get_mut(&mut self, id: ReaderId) -> Option<&mut T> {
        match id.0.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.rest.get_mut(place).and_then(Option::as_mut),
        }
    }

    /// Those in place `from` and after it.
    fn iter_mut(&mut self, from: usize) -> impl Iterator<Item = (usize, &mut T)> {
        let first = self.first.iter_mut().filter(move |_| from == 0).map(|item| (0, item));
        let skip = from.saturating_sub(1);
        let rest = self.rest.iter_mut().enumerate().skip(skip);
        first.chain(rest.filter_map(|(place, slot)| slot.as_mut().map(|item| (place + 1, item))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits { bytes: 10, lag: Duration::from_secs(5) };

    /// A flight of numbered parts that cost 1 each, or what the test says.
    fn flight(parts: u64) -> Flight<u64, ()> {
        let mut flight = Flight::new(LIMITS);
        (0..parts).for_each(|part| flight.push(part, 1));
        flight
    }

    /// Reads what there is.
    fn drain(flight: &mut Flight<u64, ()>, id: ReaderId) -> Vec<u64> {
        std::iter::from_fn(|| if let Read::Part(part) = flight.read(id) { Some(part) } else { None }).collect()
    }

    #[test]
    fn a_late_reader_hears_everything() {
        let mut flight = flight(3);
        let id = flight.join().unwrap();
        assert_eq!(drain(&mut flight, id), [0, 1, 2]);
        assert_eq!(flight.read(id), Read::Wait);
        flight.push(3, 1);
        flight.finish();
        let later = flight.join().unwrap();
        assert_eq!(drain(&mut flight, id), [3]);
        assert_eq!(flight.read(id), Read::End);
        assert_eq!(drain(&mut flight, later), [0, 1, 2, 3]);
        assert!(flight.is_at_end(later));
    }

    #[test]
    fn what_outgrows_the_recording_goes_on_for_those_who_are_there() {
        let mut flight = flight(10);
        let (early, late) = (flight.join().unwrap(), flight.join().unwrap());
        assert_eq!(drain(&mut flight, early).len(), 10);
        assert!(flight.is_recording());
        flight.push(10, 1);
        assert!(!flight.is_recording());
        assert_eq!(flight.join(), None);
        assert_eq!(flight.observe(), None);
        assert_eq!(drain(&mut flight, late), (0..=10).collect::<Vec<_>>());
        // What both have read is let go of.
        assert_eq!(flight.cost(), 1);
        assert_eq!(drain(&mut flight, early), [10]);
        assert_eq!(flight.cost(), 0);
        flight.finish();
        assert_eq!(flight.read(early), Read::End);
    }

    #[test]
    fn alone_in_a_window_nothing_is_held() {
        let mut flight = flight(0);
        let id = flight.join().unwrap();
        flight.stop_recording();
        for part in 0..100 {
            flight.push(part, 7);
            assert!(!matches!(flight.room(Instant::now()), Room::CutOff));
            assert_eq!(drain(&mut flight, id), [part]);
            assert_eq!(flight.cost(), 0);
        }
    }

    #[test]
    fn a_reader_one_window_behind_keeps_the_others_for_no_longer_than_the_lag() {
        let start = Instant::now();
        let mut flight = flight(0);
        let (fast, slow) = (flight.join().unwrap(), flight.join().unwrap());
        flight.stop_recording();
        for part in 0..10 {
            assert_eq!(flight.room(start), Room::Free);
            flight.push(part, 1);
            drain(&mut flight, fast);
        }
        assert_eq!(flight.room(start), Room::FullUntil(Some(start + 5 * S)));
        // A part that is read makes room for a part, and no new patience.
        assert_eq!(flight.read(slow), Read::Part(0));
        assert_eq!(flight.room(start + 4 * S), Room::Free);
        flight.push(10, 1);
        drain(&mut flight, fast);
        assert_eq!(flight.room(start + 4 * S), Room::FullUntil(Some(start + 5 * S)));
        assert_eq!(flight.room(start + 5 * S), Room::CutOff);
        assert_eq!(flight.room(start + 5 * S), Room::Free);
        assert_eq!(flight.cost(), 0);
        assert_eq!(flight.read(slow), Read::Lost);
        assert_eq!(flight.listeners(), 1);
        flight.push(11, 1);
        assert_eq!(drain(&mut flight, fast), [11]);
    }

    #[test]
    fn a_reader_that_catches_up_is_given_patience_again() {
        let start = Instant::now();
        let mut flight = flight(0);
        let (fast, slow) = (flight.join().unwrap(), flight.join().unwrap());
        flight.stop_recording();
        (0..10).for_each(|part| flight.push(part, 1));
        drain(&mut flight, fast);
        assert_eq!(flight.room(start), Room::FullUntil(Some(start + 5 * S)));
        (0..5).for_each(|part| assert_eq!(flight.read(slow), Read::Part(part)));
        (10..15).for_each(|part| flight.push(part, 1));
        drain(&mut flight, fast);
        assert_eq!(flight.room(start + 4 * S), Room::FullUntil(Some(start + 9 * S)));
    }

    #[test]
    fn readers_nearly_a_window_behind_are_not_cut_off_with_the_slowest() {
        let start = Instant::now();
        let mut flight = flight(0);
        let (fast, slow, slower) = (flight.join().unwrap(), flight.join().unwrap(), flight.join().unwrap());
        flight.stop_recording();
        (0..10).for_each(|part| flight.push(part, 1));
        drain(&mut flight, fast);
        flight.read(slow);
        flight.room(start);
        assert_eq!(flight.room(start + 5 * S), Room::CutOff);
        assert_eq!(flight.read(slower), Read::Lost);
        assert_eq!(drain(&mut flight, slow), (1..10).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_is_cut_off_while_it_records() {
        let mut flight = flight(10);
        let slow = flight.join().unwrap();
        assert_eq!(flight.room(Instant::now() + 1_000 * S), Room::Free);
        assert_eq!(drain(&mut flight, slow).len(), 10);
    }

    #[test]
    fn no_patience_is_endless_and_endless_patience_does_not_overflow() {
        let mut flight = Flight::<u64, ()>::new(Limits { bytes: 1, lag: Duration::MAX });
        let (fast, _slow) = (flight.join().unwrap(), flight.join().unwrap());
        flight.stop_recording();
        flight.push(0, usize::MAX);
        flight.push(1, usize::MAX);
        drain(&mut flight, fast);
        assert_eq!(flight.room(Instant::now()), Room::FullUntil(None));
    }

    #[test]
    fn a_slow_reader_that_leaves_makes_room() {
        let mut flight = flight(0);
        let (fast, slow) = (flight.join().unwrap(), flight.join().unwrap());
        flight.stop_recording();
        (0..10).for_each(|part| flight.push(part, 1));
        drain(&mut flight, fast);
        assert!(flight.is_full());
        flight.leave(slow);
        assert!(!flight.is_full());
        assert_eq!((flight.cost(), flight.listeners()), (0, 1));
    }

    #[test]
    fn without_room_elsewhere_a_recording_ends_and_readers_go_in_step() {
        let now = Instant::now();
        let mut flight = flight(2);
        let (fast, slow) = (flight.join().unwrap(), flight.join().unwrap());
        flight.set_storage_full(true);
        assert_eq!(flight.join(), None);
        drain(&mut flight, fast);
        assert_eq!(flight.room(now), Room::FullUntil(Some(now + 5 * S)));
        drain(&mut flight, slow);
        assert_eq!(flight.room(now), Room::Free);
    }

    #[test]
    fn nobody_waits_for_an_observer() {
        let mut flight = flight(10);
        let (listener, observer) = (flight.join().unwrap(), flight.observe().unwrap());
        assert_eq!(flight.read(observer), Read::Part(0));
        flight.push(10, 1);
        assert_eq!(flight.read(observer), Read::Lost);
        drain(&mut flight, listener);
        assert_eq!((flight.cost(), flight.listeners()), (0, 1));
    }

    #[test]
    fn places_are_used_again() {
        let mut flight = flight(0);
        for _ in 0..100 {
            let ids: Vec<_> = (0..10).map(|_| flight.join().unwrap()).collect();
            for id in ids {
                assert!(id.0 < 10);
                assert!(flight.leave(id).is_some());
                assert!(flight.leave(id).is_none());
            }
        }
        assert_eq!(flight.listeners(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join,
        Leave(usize),
        Read(usize),
        Push(usize),
        StopRecording,
        Cramp(bool),
        Ask(u64),
        Finish,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Join),
            1 => (0_usize..8).prop_map(Step::Leave),
            8 => (0_usize..8).prop_map(Step::Read),
            6 => (1_usize..5).prop_map(Step::Push),
            1 => Just(Step::StopRecording),
            1 => any::<bool>().prop_map(Step::Cramp),
            4 => (0_u64..4).prop_map(Step::Ask),
            1 => Just(Step::Finish),
        ]
    }

    proptest! {
        /// Whatever happens: every reader hears every part once and in order, until it is told that it is lost; what is
        /// held is what somebody has still to read, and never more than the limit and a part.
        #[test]
        fn readers_hear_everything_in_order_or_are_told(steps in prop::collection::vec(step(), 0..120)) {
            let start = Instant::now();
            let mut now = start;
            let mut flight = Flight::<u64, ()>::new(LIMITS);
            let (mut pushed, mut costs) = (0_u64, Vec::new());
            // What each reader expects next; `None` once it is lost.
            let mut readers: Vec<(ReaderId, Option<u64>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Join => {
                        let joined = flight.join();
                        prop_assert_eq!(joined.is_some(), flight.is_recording());
                        readers.extend(joined.map(|id| (id, Some(0))));
                    }
                    Step::Leave(index) if index < readers.len() => {
                        prop_assert!(flight.leave(readers.swap_remove(index).0).is_some());
                    }
                    Step::Read(index) if index < readers.len() => {
                        let (id, expected) = &mut readers[index];
                        match (flight.read(*id), *expected) {
                            (Read::Part(part), Some(next)) => {
                                prop_assert_eq!(part, next);
                                *expected = Some(next + 1);
                            }
                            (Read::Wait, Some(next)) => prop_assert!(next == pushed && !flight.is_over()),
                            (Read::End, Some(next)) => prop_assert!(next == pushed && flight.is_over()),
                            (Read::Lost, _) => *expected = None,
                            (read, None) => prop_assert!(false, "{:?} after it was lost", read),
                        }
                    }
                    Step::Push(cost) if !flight.is_over() && !flight.is_full() => {
                        flight.push(pushed, cost);
                        costs.push(cost);
                        pushed += 1;
                    }
                    Step::StopRecording => flight.stop_recording(),
                    Step::Cramp(storage_full) => flight.set_storage_full(storage_full),
                    Step::Ask(seconds) => {
                        now += Duration::from_secs(seconds);
                        // Only who has read all asks.
                        if readers.iter().any(|(_, next)| *next == Some(pushed)) {
                            let room = flight.room(now);
                            prop_assert_eq!(matches!(room, Room::FullUntil(_)), flight.is_full());
                        }
                    }
                    Step::Finish => flight.finish(),
                    _ => {}
                }
                prop_assert!(flight.cost() < LIMITS.bytes + 5);
                let from = if flight.is_recording() {
                    0
                } else {
                    // Those who were cut off and do not know it yet are behind what is held, and are not counted.
                    let behind = readers.iter().filter_map(|(id, next)| {
                        next.filter(|_| flight.readers.get(*id).is_some_and(|reader| reader.role == Role::Listener))
                    });
                    usize::try_from(behind.min().unwrap_or(pushed)).unwrap()
                };
                prop_assert_eq!(flight.cost(), costs[from..].iter().sum::<usize>());
            }
        }
    }
}
