//! Every interleaving of a few listeners and an upstream: nobody is left waiting, and everybody hears everything.
//!
//! ```sh
//! cargo test --release -p tower-buttress-loom --lib loom_
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::time::{Duration, Instant};

use loom::future::block_on;
use loom::thread;

use super::*;
use crate::policy::flight::Limits;
use crate::store::Reader;

type Appended = Arc<Mutex<State>>;

/// What a body is told to say, and whom to wake.
#[derive(Default)]
struct State {
    frames: VecDeque<&'static str>,
    over: bool,
    waker: Option<Waker>,
    dropped: bool,
}

struct Spoken(Appended);

impl Body for Spoken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = lock(&self.0);
        if let Some(frame) = state.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(frame.as_bytes())))));
        }
        if state.over {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        lock(&self.0).dropped = true;
    }
}

fn say(told: &Appended, change: impl FnOnce(&mut State)) {
    let waker = {
        let mut state = lock(told);
        change(&mut state);
        state.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

struct NoLease;

impl Lease for NoLease {
    fn resize(&mut self, _: usize) -> bool {
        true
    }

    fn release(&mut self) {}

    fn keep(self, _: Instant, _: Duration) {}
}

/// A flight whose head is there already, and its body's strings.
fn flight(limits: Limits, listeners: usize) -> (Vec<Reader>, Appended) {
    let (readers, told, _) = flight_and_log(limits, listeners);
    (readers, told)
}

fn flight_and_log(limits: Limits, listeners: usize) -> (Vec<Reader>, Appended, Log) {
    let told = Appended::default();
    let (recorder, log) = Log::new(limits);
    let readers = (0..listeners).map(|_| log.reader().unwrap()).collect();
    let config = Arc::new(Config { limits, grace: Duration::ZERO, ..Config::default() });
    let call: Ready<Result<Response<Spoken>, Infallible>> = ready(Ok(Response::new(Spoken(told.clone()))));
    Flight::launch(call, recorder, NoLease, KeySource::ByKey, None, config);
    (readers, told, log)
}

fn recording() -> Limits {
    Limits { bytes: 1 << 20, lag: Duration::MAX }
}

/// One part and 64 bytes: whoever is behind by one holds up the others.
fn window() -> Limits {
    Limits { bytes: 1, lag: Duration::MAX }
}

async fn hear(reader: &mut Reader) -> Option<Bytes> {
    match poll_fn(|cx| reader.poll_part(cx)).await {
        Some(Ok(Part::Data(data))) => Some(data),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

fn hear_all(mut reader: Reader) -> Vec<Bytes> {
    block_on(async {
        let mut heard = Vec::new();
        while let Some(data) = hear(&mut reader).await {
            heard.push(data);
        }
        heard
    })
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // Beyond two preemptions nothing new has ever been found, and three take minutes.
    model.preemption_bound = Some(2);
    model.check(check);
}

#[test]
fn loom_two_listeners_hear_what_is_said_meanwhile() {
    model(|| {
        let (readers, told) = flight(recording(), 2);
        let listening: Vec<_> = readers.into_iter().map(|reader| thread::spawn(|| hear_all(reader))).collect();
        say(&told, |state| state.frames.push_back("one"));
        say(&told, |state| state.over = true);
        for heard in listening {
            assert_eq!(heard.join().unwrap(), ["one"]);
        }
        assert!(lock(&told).dropped);
    });
}

#[test]
fn loom_in_a_window_nobody_is_left_waiting_for_room() {
    model(|| {
        let (readers, told) = flight(window(), 2);
        lock(&told).frames.extend(["one", "two"]);
        lock(&told).over = true;
        let listening: Vec<_> = readers.into_iter().map(|reader| thread::spawn(|| hear_all(reader))).collect();
        for heard in listening {
            assert_eq!(heard.join().unwrap(), ["one", "two"]);
        }
    });
}

#[test]
fn loom_a_listener_that_leaves_takes_nothing_along() {
    model(|| {
        let (mut readers, told) = flight(recording(), 2);
        let mut leaves = readers.pop().unwrap();
        // It asks once, which may leave it with the upstream's only waker, and goes away whatever came.
        let leaves = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let _ = leaves.poll_part(cx);
                Poll::Ready(())
            }));
        });
        let told_there = told.clone();
        let upstream = thread::spawn(move || say(&told_there, |state| state.over = true));
        assert!(hear_all(readers.pop().unwrap()).is_empty());
        leaves.join().unwrap();
        upstream.join().unwrap();
    });
}

#[test]
fn loom_a_listener_that_does_not_come_back_keeps_nobody() {
    model(|| {
        let (mut readers, told) = flight(recording(), 2);
        let mut idle = readers.pop().unwrap();
        let idle = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let _ = idle.poll_part(cx);
                Poll::Ready(())
            }));
            idle
        });
        let told_there = told.clone();
        let upstream = thread::spawn(move || say(&told_there, |state| state.over = true));
        assert!(hear_all(readers.pop().unwrap()).is_empty());
        drop(idle.join().unwrap());
        upstream.join().unwrap();
    });
}

/// One reads one part and no more, and stays; the other must hear all.
fn one_reads_only_the_first(limits: Limits, frames: [&'static str; 2]) {
    let (mut readers, told) = flight(limits, 2);
    lock(&told).frames.extend(frames.into_iter().filter(|frame| !frame.is_empty()));
    lock(&told).over = true;
    let mut sated = readers.pop().unwrap();
    let sated = thread::spawn(move || {
        assert_eq!(block_on(hear(&mut sated)).unwrap(), frames[0]);
        sated
    });
    let heard = hear_all(readers.pop().unwrap());
    assert_eq!(heard, frames.into_iter().filter(|frame| !frame.is_empty()).collect::<Vec<_>>());
    drop(sated.join().unwrap());
}

#[test]
fn loom_a_listener_who_has_had_enough_keeps_nobody() {
    model(|| one_reads_only_the_first(recording(), ["one", "two"]));
}

#[test]
fn loom_room_that_a_listener_makes_is_used_by_the_others() {
    model(|| one_reads_only_the_first(window(), ["one", ""]));
}

#[test]
fn loom_when_the_last_two_leave_at_once_the_upstream_is_dropped() {
    model(|| {
        let (readers, told) = flight(recording(), 2);
        let leaving: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                thread::spawn(move || {
                    block_on(poll_fn(|cx| {
                        let _ = reader.poll_part(cx);
                        Poll::Ready(())
                    }));
                })
            })
            .collect();
        for left in leaving {
            left.join().unwrap();
        }
        assert!(lock(&told).dropped);
    });
}

#[test]
fn loom_who_joins_while_the_last_one_leaves_is_heard_or_refused() {
    model(|| {
        let (mut readers, told, log) = flight_and_log(recording(), 1);
        let last = readers.pop().unwrap();
        lock(&told).over = true;
        let joins = thread::spawn(move || log.reader().map(hear_failing));
        drop(last);
        // Nothing was said: it hears the end of all, or that there was nobody to hear it.
        joins.join().unwrap();
        assert!(lock(&told).dropped);
    });
}

fn hear_failing(mut reader: Reader) {
    block_on(async { while poll_fn(|cx| reader.poll_part(cx)).await.is_some_and(|part| part.is_ok()) {} });
}
