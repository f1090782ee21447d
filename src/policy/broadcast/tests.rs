use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);
const LIMITS: LogLimits = LogLimits { bytes: 10, lag: Duration::from_secs(5) };

impl<P: Clone, A: Default> Broadcast<P, A> {
    fn read(&mut self, id: ReaderId) -> NextPart<P> {
        self.read_with(id, |part| part.clone())
    }
}

/// A broadcast of numbered parts that cost 1 each, or what the test says.
fn broadcast(parts: u64) -> Broadcast<u64, ()> {
    let mut broadcast = Broadcast::new(LIMITS);
    (0..parts).for_each(|part| broadcast.push(part, 1));
    broadcast
}

/// Reads what there is.
fn drain(broadcast: &mut Broadcast<u64, ()>, id: ReaderId) -> Vec<u64> {
    std::iter::from_fn(|| if let NextPart::Part(part) = broadcast.read(id) { Some(part) } else { None }).collect()
}

#[test]
fn a_late_reader_receives_everything() {
    let mut broadcast = broadcast(3);
    let id = broadcast.join().unwrap();
    assert_eq!(drain(&mut broadcast, id), [0, 1, 2]);
    assert_eq!(broadcast.read(id), NextPart::Wait);
    broadcast.push(3, 1);
    broadcast.finish();
    let later = broadcast.join().unwrap();
    assert_eq!(drain(&mut broadcast, id), [3]);
    assert_eq!(broadcast.read(id), NextPart::End);
    assert_eq!(drain(&mut broadcast, later), [0, 1, 2, 3]);
    assert!(broadcast.is_at_end(later));
}

#[test]
fn a_reader_is_at_the_end_when_it_has_read_all_and_no_more_comes() {
    let mut broadcast = broadcast(1);
    let id = broadcast.join().unwrap();
    assert!(!broadcast.is_at_tip(id) && !broadcast.is_at_end(id));
    assert_eq!(drain(&mut broadcast, id), [0]);
    assert!(broadcast.is_at_tip(id) && !broadcast.is_at_end(id), "more may come");
    broadcast.push(1, 1);
    broadcast.finish();
    assert!(!broadcast.is_at_tip(id) && !broadcast.is_at_end(id), "there is more");
    assert_eq!(drain(&mut broadcast, id), [1]);
    assert!(broadcast.is_at_end(id));
}

#[test]
fn a_part_is_added_to_the_last_one_of_a_recording_unless_another_reader_waits_for_it() {
    fn add(broadcast: &mut Broadcast<u64, ()>, reader: Option<ReaderId>, part: u64) -> bool {
        broadcast.add_to_last(reader, 1, |last| {
            *last += part;
            true
        })
    }
    let mut recording = broadcast(0);
    let (reads, waits) = (recording.join().unwrap(), recording.join().unwrap());
    assert!(!add(&mut recording, Some(reads), 1), "nothing is held yet");
    recording.push_read(reads, || 1, 5);
    assert!(add(&mut recording, Some(reads), 2));
    assert_eq!((recording.cost(), drain(&mut recording, waits)), (6, vec![3]));
    assert!(drain(&mut recording, reads).is_empty());
    assert!(!add(&mut recording, Some(reads), 3), "the other reader waits for it");
    recording.leave(waits);
    assert!(!add(&mut recording, None, 3), "no reader has read the part before");
    assert!(add(&mut recording, Some(reads), 3));
    recording.push_read(reads, || 4, 3);
    assert!(!add(&mut recording, Some(reads), 5), "the recording is full");
    let late = recording.join().unwrap();
    assert_eq!(drain(&mut recording, late), [6, 4]);
    let mut window = broadcast(1);
    window.stop_recording();
    assert!(!add(&mut window, None, 1));
}

#[test]
fn an_answer_that_outgrows_the_recording_goes_on_for_current_readers() {
    let mut broadcast = broadcast(10);
    let (early, late) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    assert_eq!(drain(&mut broadcast, early).len(), 10);
    assert!(broadcast.is_recording());
    broadcast.push(10, 1);
    assert!(!broadcast.is_recording());
    assert_eq!(broadcast.join(), None);
    assert_eq!(broadcast.observe(), None);
    assert_eq!(drain(&mut broadcast, late), (0..=10).collect::<Vec<_>>());
    // What both have read is let go of.
    assert_eq!(broadcast.cost(), 1);
    assert_eq!(drain(&mut broadcast, early), [10]);
    assert_eq!(broadcast.cost(), 0);
    broadcast.finish();
    assert_eq!(broadcast.read(early), NextPart::End);
}

#[test]
fn alone_in_a_window_nothing_is_held() {
    let mut broadcast = broadcast(0);
    let id = broadcast.join().unwrap();
    broadcast.stop_recording();
    for part in 0..100 {
        broadcast.push(part, 7);
        assert!(!matches!(broadcast.room(Instant::now()), Room::CutOff));
        assert_eq!(drain(&mut broadcast, id), [part]);
        assert_eq!(broadcast.cost(), 0);
    }
}

#[test]
fn a_reader_one_window_behind_keeps_the_others_for_no_longer_than_the_lag() {
    let start = Instant::now();
    let mut broadcast = broadcast(0);
    let (fast, slow) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    broadcast.stop_recording();
    for part in 0..10 {
        assert_eq!(broadcast.room(start), Room::Free);
        broadcast.push(part, 1);
        drain(&mut broadcast, fast);
    }
    assert_eq!(broadcast.room(start), Room::FullUntil(Some(start + 5 * S)));
    // A part that is read makes room for a part, and no new patience.
    assert_eq!(broadcast.read(slow), NextPart::Part(0));
    assert_eq!(broadcast.room(start + 4 * S), Room::Free);
    broadcast.push(10, 1);
    drain(&mut broadcast, fast);
    assert_eq!(broadcast.room(start + 4 * S), Room::FullUntil(Some(start + 5 * S)));
    assert_eq!(broadcast.room(start + 5 * S), Room::CutOff);
    assert_eq!(broadcast.room(start + 5 * S), Room::Free);
    assert_eq!(broadcast.cost(), 0);
    assert_eq!(broadcast.read(slow), NextPart::Lost);
    assert_eq!(broadcast.listeners(), 1);
    broadcast.push(11, 1);
    assert_eq!(drain(&mut broadcast, fast), [11]);
}

#[test]
fn a_reader_that_catches_up_is_given_patience_again() {
    let start = Instant::now();
    let mut broadcast = broadcast(0);
    let (fast, slow) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    broadcast.stop_recording();
    (0..10).for_each(|part| broadcast.push(part, 1));
    drain(&mut broadcast, fast);
    assert_eq!(broadcast.room(start), Room::FullUntil(Some(start + 5 * S)));
    (0..5).for_each(|part| assert_eq!(broadcast.read(slow), NextPart::Part(part)));
    (10..15).for_each(|part| broadcast.push(part, 1));
    drain(&mut broadcast, fast);
    assert_eq!(broadcast.room(start + 4 * S), Room::FullUntil(Some(start + 9 * S)));
}

#[test]
fn readers_nearly_a_window_behind_are_not_cut_off_with_the_slowest() {
    let start = Instant::now();
    let mut broadcast = broadcast(0);
    let (fast, slow, slower) = (broadcast.join().unwrap(), broadcast.join().unwrap(), broadcast.join().unwrap());
    broadcast.stop_recording();
    (0..10).for_each(|part| broadcast.push(part, 1));
    drain(&mut broadcast, fast);
    broadcast.read(slow);
    broadcast.room(start);
    assert_eq!(broadcast.room(start + 5 * S), Room::CutOff);
    assert_eq!(broadcast.read(slower), NextPart::Lost);
    assert_eq!(drain(&mut broadcast, slow), (1..10).collect::<Vec<_>>());
}

#[test]
fn no_reader_is_cut_off_while_it_records() {
    let mut broadcast = broadcast(10);
    let slow = broadcast.join().unwrap();
    assert_eq!(broadcast.room(Instant::now() + 1_000 * S), Room::Free);
    assert_eq!(drain(&mut broadcast, slow).len(), 10);
}

#[test]
fn no_patience_is_endless_and_endless_patience_does_not_overflow() {
    let mut broadcast = Broadcast::<u64, ()>::new(LogLimits { bytes: 1, lag: Duration::MAX });
    let (fast, _slow) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    broadcast.stop_recording();
    broadcast.push(0, 1);
    broadcast.push(1, usize::MAX);
    drain(&mut broadcast, fast);
    assert_eq!(broadcast.room(Instant::now()), Room::FullUntil(None));
}

#[test]
fn a_slow_reader_that_leaves_makes_room() {
    let mut broadcast = broadcast(0);
    let (fast, slow) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    broadcast.stop_recording();
    (0..10).for_each(|part| broadcast.push(part, 1));
    drain(&mut broadcast, fast);
    assert!(broadcast.is_full());
    broadcast.leave(slow);
    assert!(!broadcast.is_full());
    assert_eq!((broadcast.cost(), broadcast.listeners()), (0, 1));
}

#[test]
fn without_room_elsewhere_a_recording_ends_and_readers_go_in_step() {
    let now = Instant::now();
    let mut broadcast = broadcast(2);
    let (fast, slow) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    broadcast.set_storage_full(true);
    assert_eq!(broadcast.join(), None);
    drain(&mut broadcast, fast);
    assert_eq!(broadcast.room(now), Room::FullUntil(Some(now + 5 * S)));
    drain(&mut broadcast, slow);
    assert_eq!(broadcast.room(now), Room::Free);
}

#[test]
fn no_reader_waits_for_an_observer() {
    let mut broadcast = broadcast(10);
    let (listener, observer) = (broadcast.join().unwrap(), broadcast.observe().unwrap());
    assert_eq!(broadcast.read(observer), NextPart::Part(0));
    broadcast.push(10, 1);
    assert_eq!(broadcast.read(observer), NextPart::Lost);
    drain(&mut broadcast, listener);
    assert_eq!((broadcast.cost(), broadcast.listeners()), (0, 1));
}

#[test]
fn places_are_used_again() {
    let mut broadcast = broadcast(0);
    for _ in 0..100 {
        let ids: Vec<_> = (0..10).map(|_| broadcast.join().unwrap()).collect();
        for id in ids {
            assert!(id.0 < 10);
            assert!(broadcast.leave(id).is_some());
            assert!(broadcast.leave(id).is_none());
        }
    }
    assert_eq!(broadcast.listeners(), 0);
}

#[test]
fn without_room_elsewhere_a_trickling_reader_holds_the_others_up_for_no_longer_than_the_lag() {
    let start = Instant::now();
    // Less than half of a window.
    let mut broadcast = broadcast(5);
    let (fast, slow) = (broadcast.join().unwrap(), broadcast.join().unwrap());
    drain(&mut broadcast, fast);
    broadcast.set_storage_full(true);
    assert_eq!(broadcast.room(start), Room::FullUntil(Some(start + 5 * S)));
    // Each part that it reads is one less that is held, and no more time.
    for second in 1..5 {
        assert_eq!(broadcast.read(slow), NextPart::Part(u64::from(second) - 1));
        assert_eq!(broadcast.room(start + second * S), Room::FullUntil(Some(start + 5 * S)));
    }
    assert_eq!(broadcast.room(start + 5 * S), Room::CutOff);
    assert_eq!(broadcast.read(slow), NextPart::Lost);
    assert_eq!(broadcast.room(start + 5 * S), Room::Free);
}

#[test]
fn an_observer_that_listens_is_waited_for_and_counts() {
    let mut broadcast = broadcast(10);
    let (listener, observer) = (broadcast.join().unwrap(), broadcast.observe().unwrap());
    assert_eq!(broadcast.read(observer), NextPart::Part(0));
    assert!(broadcast.set_listening(observer, true));
    assert_eq!(broadcast.listeners(), 2);
    broadcast.push(10, 1);
    drain(&mut broadcast, listener);
    assert_eq!(broadcast.cost(), 10, "the parts that the observer has not read are held");
    assert_eq!(drain(&mut broadcast, observer), (1..=10).collect::<Vec<_>>());
    assert_eq!(broadcast.cost(), 0);

    // When it no longer listens, no other listener waits for it, and without a recording it cannot come back.
    assert!(broadcast.set_listening(observer, false));
    broadcast.push(11, 1);
    drain(&mut broadcast, listener);
    assert_eq!((broadcast.cost(), broadcast.listeners()), (0, 1));
    assert!(!broadcast.set_listening(observer, true));
    assert_eq!(broadcast.read(observer), NextPart::Lost);
}

#[test]
fn a_producer_that_does_not_wait_for_room_makes_us_hold_two_windows_at_most() {
    let mut broadcast = broadcast(0);
    let slow = broadcast.join().unwrap();
    for part in 0..1_000 {
        broadcast.push(part, 3);
        // And the part that came last, and the one before it.
        assert!(broadcast.cost() <= 2 * LIMITS.bytes + 2 * 3, "{} are held", broadcast.cost());
    }
    assert_eq!(broadcast.read(slow), NextPart::Lost);
    assert_eq!(broadcast.cost(), 0);
}

#[test]
fn a_part_longer_than_the_window_is_read_by_a_reader_that_kept_up() {
    let mut broadcast = broadcast(0);
    let reader = broadcast.join().unwrap();
    for part in 0..10 {
        broadcast.push(part, 100 * LIMITS.bytes);
        assert_eq!(broadcast.read(reader), NextPart::Part(part));
    }
}

/// Each of two readers saw room, and fetched one.
#[test]
fn two_parts_longer_than_the_window_are_read_by_readers_that_kept_up() {
    let mut broadcast = broadcast(0);
    let readers = [broadcast.join().unwrap(), broadcast.join().unwrap()];
    broadcast.push(0, 100 * LIMITS.bytes);
    broadcast.push(1, 100 * LIMITS.bytes);
    for reader in readers {
        assert_eq!(drain(&mut broadcast, reader), [0, 1]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(usize),
    Read(usize),
    Push(usize),
    StopRecording,
    StorageFull(bool),
    Listen(usize, bool),
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
        1 => any::<bool>().prop_map(Step::StorageFull),
        1 => (0_usize..8, any::<bool>()).prop_map(|(index, listening)| Step::Listen(index, listening)),
        4 => (0_u64..4).prop_map(Step::Ask),
        1 => Just(Step::Finish),
    ]
}

proptest! {
    /// In any order of events every reader receives every part once and in order, until it learns that it is lost; what is
    /// held is what a reader has still to read, and never more than the limit and a part.
    #[test]
    fn readers_receive_everything_in_order_or_learn_of_the_gap(steps in prop::collection::vec(step(), 0..120)) {
        let start = Instant::now();
        let mut now = start;
        let mut broadcast = Broadcast::<u64, ()>::new(LIMITS);
        let (mut pushed, mut costs) = (0_u64, Vec::new());
        // What each reader expects next; `None` once it is lost.
        let mut readers: Vec<(ReaderId, Option<u64>)> = Vec::new();
        for step in steps {
            match step {
                Step::Join => {
                    let joined = broadcast.join();
                    prop_assert_eq!(joined.is_some(), broadcast.is_recording());
                    readers.extend(joined.map(|id| (id, Some(0))));
                }
                Step::Leave(index) if index < readers.len() => {
                    prop_assert!(broadcast.leave(readers.swap_remove(index).0).is_some());
                }
                Step::Read(index) if index < readers.len() => {
                    let (id, expected) = &mut readers[index];
                    match (broadcast.read(*id), *expected) {
                        (NextPart::Part(part), Some(next)) => {
                            prop_assert_eq!(part, next);
                            *expected = Some(next + 1);
                        }
                        (NextPart::Wait, Some(next)) => prop_assert!(next == pushed && !broadcast.has_ended()),
                        (NextPart::End, Some(next)) => prop_assert!(next == pushed && broadcast.has_ended()),
                        (NextPart::Lost, _) => *expected = None,
                        (read, None) => prop_assert!(false, "{:?} after it was lost", read),
                    }
                }
                Step::Push(cost) if !broadcast.has_ended() && !broadcast.is_full() => {
                    // As often as not for a reader that has read all there is.
                    let at_tip = readers.iter_mut().find(|(id, _)| pushed % 2 == 0 && broadcast.is_at_tip(*id));
                    match at_tip {
                        Some((id, next)) => {
                            broadcast.push_read(*id, || pushed, cost);
                            *next = Some(pushed + 1);
                        }
                        None => broadcast.push(pushed, cost),
                    }
                    costs.push(cost);
                    pushed += 1;
                }
                Step::StopRecording => broadcast.stop_recording(),
                Step::Listen(index, listening) if index < readers.len() => {
                    let (id, expected) = &mut readers[index];
                    let joined = broadcast.set_listening(*id, listening);
                    if !joined || !(listening || broadcast.is_recording()) {
                        *expected = None;
                    }
                }
                Step::StorageFull(storage_full) => broadcast.set_storage_full(storage_full),
                Step::Ask(seconds) => {
                    now += Duration::from_secs(seconds);
                    // Only who has read all asks.
                    if readers.iter().any(|(_, next)| *next == Some(pushed)) {
                        let room = broadcast.room(now);
                        prop_assert_eq!(matches!(room, Room::FullUntil(_)), broadcast.is_full());
                    }
                }
                Step::Finish => broadcast.finish(),
                _ => {}
            }
            prop_assert!(broadcast.cost() < LIMITS.bytes + 5);
            let from = if broadcast.is_recording() {
                0
            } else {
                // Those who were cut off and do not know it yet are behind what is held, and are not counted.
                let behind = readers.iter().filter_map(|(id, next)| {
                    next.filter(|_| broadcast.readers.get(id.0).is_some_and(|reader| reader.role == ReaderRole::Listener))
                });
                usize::try_from(behind.min().unwrap_or(pushed)).unwrap()
            };
            prop_assert_eq!(broadcast.cost(), costs[from..].iter().sum::<usize>());
        }
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A slow reader reads a part.
    SlowRead(usize),
    /// A slow reader leaves.
    SlowLeaves(usize),
    /// The store has no room, or has some again.
    StorageFull(bool),
    /// Nothing.
    Pass,
}

/// Tenths of a second that pass, what happens then, and how many parts the upstream has from then on.
fn event() -> impl Strategy<Value = (u64, Event, u32)> {
    let event = prop_oneof![
        6 => (0_usize..3).prop_map(Event::SlowRead),
        1 => (0_usize..3).prop_map(Event::SlowLeaves),
        2 => any::<bool>().prop_map(Event::StorageFull),
        1 => Just(Event::Pass),
    ];
    (0_u64..40, event, 0_u32..4)
}

/// The readers that read as soon as there is something, over an upstream that always has more. Each with the instant of
/// its last part.
struct FastReaders(Vec<(ReaderId, Instant)>);

impl FastReaders {
    /// They read, and poll the upstream. Returns when they must look again, where they wait for another reader.
    fn run(
        &mut self,
        broadcast: &mut Broadcast<u64, ()>,
        now: Instant,
        pushed: &mut u64,
        has: &mut u32,
    ) -> Option<Instant> {
        loop {
            for (id, last) in &mut self.0 {
                if !drain(broadcast, *id).is_empty() {
                    *last = now;
                }
            }
            match broadcast.room(now) {
                Room::FullUntil(until) => return until,
                Room::Free | Room::CutOff if *has > 0 => {
                    broadcast.push(*pushed, 1);
                    *pushed += 1;
                    *has -= 1;
                }
                Room::Free | Room::CutOff => {
                    // What they wait for now is the upstream.
                    self.0.iter_mut().for_each(|(_, last)| *last = now);
                    return None;
                }
            }
        }
    }
}

proptest! {
    /// Whatever the slow readers do, and whatever room the store has: a reader that wants more has its next part within
    /// the lag, as long as the upstream has one.
    #[test]
    fn no_reader_waits_longer_than_the_lag_without_a_part(
        recorded in 0_u64..15,
        fast in 1_usize..3,
        slow in 1_usize..4,
        events in prop::collection::vec(event(), 0..150),
    ) {
        let mut now = Instant::now();
        let mut broadcast = Broadcast::<u64, ()>::new(LIMITS);
        let mut fast = FastReaders((0..fast).map(|_| (broadcast.join().unwrap(), now)).collect());
        let mut slow: Vec<_> = (0..slow).map(|_| broadcast.join().unwrap()).collect();
        (0..recorded).for_each(|part| broadcast.push(part, 1));
        let (mut pushed, mut has) = (recorded, 0);
        for (tenths, event, more) in events {
            let mut look_again = fast.run(&mut broadcast, now, &mut pushed, &mut has);
            let then = now + Duration::from_millis(100 * tenths);
            while let Some(at) = look_again.filter(|at| *at <= then) {
                now = at;
                look_again = fast.run(&mut broadcast, now, &mut pushed, &mut has);
                for (_, last) in &fast.0 {
                    prop_assert!(now - *last <= LIMITS.lag, "waited for {:?}", now - *last);
                }
            }
            now = then;
            for (_, last) in fast.0.iter().filter(|_| look_again.is_some()) {
                prop_assert!(now - *last <= LIMITS.lag, "waited for {:?}", now - *last);
            }
            match event {
                Event::SlowRead(index) if index < slow.len() => drop(broadcast.read(slow[index])),
                Event::SlowLeaves(index) if index < slow.len() => drop(broadcast.leave(slow.swap_remove(index))),
                Event::StorageFull(storage_full) => broadcast.set_storage_full(storage_full),
                _ => {}
            }
            has += more;
            if look_again.is_none() {
                fast.0.iter_mut().for_each(|(_, last)| *last = now);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum MergeStep {
    Join,
    Leave(usize),
    Read(usize),
    Push,
    StopRecording,
}

fn merge_step() -> impl Strategy<Value = MergeStep> {
    prop_oneof![
        1 => Just(MergeStep::Join),
        1 => (0_usize..4).prop_map(MergeStep::Leave),
        6 => (0_usize..4).prop_map(MergeStep::Read),
        8 => Just(MergeStep::Push),
        1 => Just(MergeStep::StopRecording),
    ]
}

proptest! {
    /// Merged or not, every reader receives everything once and in order, and what is held costs what its parts do.
    #[test]
    fn merged_parts_are_heard_once_and_in_order(steps in prop::collection::vec(merge_step(), 0..120)) {
        let mut broadcast = Broadcast::<Vec<u64>, ()>::new(LogLimits { bytes: 1_000_000, lag: 5 * S });
        let mut pushed = 0;
        let mut readers: Vec<(ReaderId, u64)> = Vec::new();
        for step in steps {
            match step {
                MergeStep::Join => readers.extend(broadcast.join().map(|id| (id, 0))),
                MergeStep::Leave(index) if index < readers.len() => {
                    broadcast.leave(readers.swap_remove(index).0);
                }
                MergeStep::Read(index) if index < readers.len() => {
                    let (id, next) = &mut readers[index];
                    match broadcast.read(*id) {
                        NextPart::Part(parts) => for part in parts {
                            prop_assert_eq!(part, *next);
                            *next += 1;
                        },
                        read => {
                            prop_assert_eq!(read, NextPart::Wait);
                            prop_assert_eq!(*next, pushed);
                        }
                    }
                }
                MergeStep::Push => {
                    let at_tip = readers.iter().position(|(id, _)| pushed % 2 == 0 && broadcast.is_at_tip(*id));
                    let id = at_tip.map(|index| readers[index].0);
                    let is_added = broadcast.add_to_last(id, 1, |block| {
                        let fits = block.len() < 5;
                        if fits {
                            block.push(pushed);
                        }
                        fits
                    });
                    match id {
                        _ if is_added => {}
                        Some(id) => broadcast.push_read(id, || vec![pushed], 11),
                        None => broadcast.push(vec![pushed], 11),
                    }
                    if let Some(index) = at_tip {
                        readers[index].1 = pushed + 1;
                    }
                    pushed += 1;
                }
                MergeStep::StopRecording => broadcast.stop_recording(),
                _ => {}
            }
            let cost: usize = broadcast.parts.iter().map(|held| held.part.len() + 10).sum();
            prop_assert_eq!(broadcast.cost(), cost);
            for (id, next) in &readers {
                prop_assert_eq!(broadcast.is_at_tip(*id), *next == pushed);
            }
        }
    }
}
