//! Every interleaving of a few listeners and an upstream: none is left waiting, and each receives everything.
//!
//! ```sh
//! cargo test --release -p tower-buttress-loom --lib loom_
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::time::Duration;

use http_body::Frame;
use loom::future::block_on;
use loom::thread;

use super::*;
use crate::policy::broadcast::LogLimits;
use crate::policy::storable::KeySource;
use crate::proto::fingerprint::Fingerprint;
use crate::store::{BodyPart, LogReader, Recorder, Retention};

type Script = Arc<Mutex<State>>;

/// What a body says, and its reader's waker.
#[derive(Default)]
struct State {
    frames: VecDeque<&'static str>,
    has_ended: bool,
    waker: Option<Waker>,
    is_dropped: bool,
}

struct Scripted(Script);

impl Body for Scripted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = lock(&self.0);
        if let Some(frame) = state.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(frame.as_bytes())))));
        }
        if state.has_ended {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        lock(&self.0).is_dropped = true;
    }
}

fn say(script: &Script, change: impl FnOnce(&mut State)) {
    let waker = {
        let mut state = lock(script);
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

    fn keep(self, _: Retention) {}
}

/// The readers of a call whose head is there already, and its script.
fn shared_call(limits: LogLimits, listeners: usize) -> (Vec<LogReader>, Script) {
    let (readers, script, _) = shared_call_and_log(limits, listeners);
    (readers, script)
}

fn shared_call_and_log(limits: LogLimits, listeners: usize) -> (Vec<LogReader>, Script, ResponseLog) {
    let script = Script::default();
    let (recorder, log) = Recorder::open(limits);
    let readers = (0..listeners).map(|_| log.reader().unwrap()).collect();
    let config = Arc::new(Config { limits, grace: Duration::ZERO, ..Config::default() });
    let call: Ready<Result<Response<Scripted>, Infallible>> = ready(Ok(Response::new(Scripted(script.clone()))));
    let reservation = config.memory.reserve(None);
    let (source, tenant) = (KeySource::ByKey, Fingerprint::from_bytes([0; 32]));
    let recorder =
        ResponseRecorder::new(recorder, NoLease, reservation, source, Duration::ZERO, (tenant, None), config.clone());
    SharedCall::launch(call, recorder, None, RetryReport::new(), config);
    (readers, script, log)
}

fn recording() -> LogLimits {
    LogLimits { bytes: 1 << 20, lag: Duration::MAX }
}

/// One part and 64 bytes: a listener that is behind by one holds up the others.
fn window() -> LogLimits {
    LogLimits { bytes: 1, lag: Duration::MAX }
}

async fn read_next(reader: &mut LogReader) -> Option<Bytes> {
    match poll_fn(|cx| reader.poll_part(cx)).await {
        Some(Ok(BodyPart::Data(data))) => Some(data),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

fn read_all(mut reader: LogReader) -> Vec<Bytes> {
    block_on(async {
        let mut received = Vec::new();
        while let Some(data) = read_next(&mut reader).await {
            received.push(data);
        }
        received
    })
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // Beyond two preemptions nothing new has ever been found, and three take minutes.
    model.preemption_bound = Some(2);
    model.check(check);
}

#[test]
fn loom_two_listeners_receive_what_is_said_meanwhile() {
    model(|| {
        let (readers, script) = shared_call(recording(), 2);
        let listening: Vec<_> = readers.into_iter().map(|reader| thread::spawn(|| read_all(reader))).collect();
        say(&script, |state| state.frames.push_back("one"));
        say(&script, |state| state.has_ended = true);
        for received in listening {
            assert_eq!(received.join().unwrap(), ["one"]);
        }
        assert!(lock(&script).is_dropped);
    });
}

#[test]
fn loom_in_a_window_no_writer_is_left_waiting_for_room() {
    model(|| {
        let (readers, script) = shared_call(window(), 2);
        lock(&script).frames.extend(["one", "two"]);
        lock(&script).has_ended = true;
        let listening: Vec<_> = readers.into_iter().map(|reader| thread::spawn(|| read_all(reader))).collect();
        for received in listening {
            assert_eq!(received.join().unwrap(), ["one", "two"]);
        }
    });
}

#[test]
fn loom_a_listener_that_leaves_takes_nothing_along() {
    model(|| {
        let (mut readers, script) = shared_call(recording(), 2);
        let mut leaves = readers.pop().unwrap();
        // It asks once, which may leave it with the upstream's only waker, and goes away whatever came.
        let leaves = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let _ = leaves.poll_part(cx);
                Poll::Ready(())
            }));
        });
        let script_there = script.clone();
        let upstream = thread::spawn(move || say(&script_there, |state| state.has_ended = true));
        assert!(read_all(readers.pop().unwrap()).is_empty());
        leaves.join().unwrap();
        upstream.join().unwrap();
    });
}

#[test]
fn loom_a_listener_that_does_not_come_back_holds_up_no_other() {
    model(|| {
        let (mut readers, script) = shared_call(recording(), 2);
        let mut idle = readers.pop().unwrap();
        let idle = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let _ = idle.poll_part(cx);
                Poll::Ready(())
            }));
            idle
        });
        let script_there = script.clone();
        let upstream = thread::spawn(move || say(&script_there, |state| state.has_ended = true));
        assert!(read_all(readers.pop().unwrap()).is_empty());
        drop(idle.join().unwrap());
        upstream.join().unwrap();
    });
}

/// One reads one part and no more, and stays; the other must receive all.
fn one_reads_only_the_first(limits: LogLimits, frames: [&'static str; 2]) {
    let (mut readers, script) = shared_call(limits, 2);
    lock(&script).frames.extend(frames.into_iter().filter(|frame| !frame.is_empty()));
    lock(&script).has_ended = true;
    let mut sated = readers.pop().unwrap();
    let sated = thread::spawn(move || {
        assert_eq!(block_on(read_next(&mut sated)).unwrap(), frames[0]);
        sated
    });
    let received = read_all(readers.pop().unwrap());
    assert_eq!(received, frames.into_iter().filter(|frame| !frame.is_empty()).collect::<Vec<_>>());
    drop(sated.join().unwrap());
}

#[test]
fn loom_a_listener_that_has_had_enough_holds_up_no_other() {
    model(|| one_reads_only_the_first(recording(), ["one", "two"]));
}

#[test]
fn loom_room_that_a_listener_makes_is_used_by_the_others() {
    model(|| one_reads_only_the_first(window(), ["one", ""]));
}

#[test]
fn loom_when_the_last_two_leave_at_once_the_upstream_is_dropped() {
    model(|| {
        let (readers, script) = shared_call(recording(), 2);
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
        assert!(lock(&script).is_dropped);
    });
}

#[test]
fn loom_a_caller_that_joins_while_the_last_one_leaves_is_served_or_refused() {
    model(|| {
        let (mut readers, script, log) = shared_call_and_log(recording(), 1);
        let last = readers.pop().unwrap();
        lock(&script).has_ended = true;
        let joins = thread::spawn(move || log.reader().map(read_failing));
        drop(last);
        // Nothing was said: it receives the end of all, or that there was no listener.
        joins.join().unwrap();
        assert!(lock(&script).is_dropped);
    });
}

fn read_failing(mut reader: LogReader) {
    block_on(async { while poll_fn(|cx| reader.poll_part(cx)).await.is_some_and(|part| part.is_ok()) {} });
}

#[test]
fn loom_a_recorder_that_waits_for_room_is_woken() {
    model(|| {
        let (mut recorder, log) = Recorder::open(window());
        let reader = log.reader().unwrap();
        let listening = thread::spawn(|| read_all(reader));
        for part in ["one", "two"] {
            block_on(recorder.ready());
            recorder.part(BodyPart::Data(Bytes::from_static(part.as_bytes())));
        }
        recorder.finish();
        assert_eq!(listening.join().unwrap(), ["one", "two"]);
    });
}
