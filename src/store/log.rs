use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use super::drive::{Drive, Watched};
use super::reader::LogReader;
use super::shared::Shared;
use crate::call::RetryReport;
use crate::error::SharedError;
use crate::policy::broadcast::ReaderId;
use crate::rt::deadline::{Deadline, SharedDeadline};

/// The answer to one call: a head, parts, and an end. One [`Recorder`](super::Recorder) writes it; any number of
/// [`LogReader`]s read it.
///
/// A reader reads from the first part on, whenever it joins, as long as the recording is within its limit. All readers
/// share the held parts.
#[derive(Clone)]
pub struct ResponseLog {
    shared: Arc<Shared>,
}

struct ReadersWaker(Weak<Shared>);

/// The error of a call that a caller has stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

// === impl ResponseLog ===

impl ResponseLog {
    pub(super) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The call begins, for a caller with this deadline and report. Returns the deadline that all its listeners share,
    /// and where its attempts are reported.
    ///
    /// Listeners may have joined since the caller claimed the call.
    pub(crate) fn begin(
        &self,
        deadline: Option<Deadline>,
        report: Option<RetryReport>,
    ) -> (Option<SharedDeadline>, RetryReport) {
        let mut state = self.shared.state();
        state.has_begun = true;
        state.deadline = match (state.deadline.take(), deadline) {
            (Some(shared), Some(deadline)) => {
                shared.extend(Some(deadline));
                Some(shared)
            }
            (_, deadline) => deadline.map(|deadline| SharedDeadline::new(Some(deadline))),
        };
        let shared = match (state.report.take(), report) {
            (Some(shared), Some(report)) => {
                report.join(&shared);
                shared
            }
            (shared, report) => shared.or(report).unwrap_or_default(),
        };
        state.report = Some(shared.clone());
        (state.deadline.clone(), shared)
    }

    /// Adds a listener: the call's deadline is the latest of its listeners', and `report` learns of the call's attempts.
    pub(crate) fn join(&self, deadline: Option<Deadline>, report: Option<&RetryReport>) -> Option<LogReader> {
        let reader = self.reader()?;
        let mut state = self.shared.state();
        match &state.deadline {
            Some(shared) => shared.extend(deadline),
            None if state.has_begun => {}
            None => state.deadline = Some(SharedDeadline::new(deadline)),
        }
        if let Some(report) = report {
            report.join(state.report.get_or_insert_default());
        }
        drop(state);
        Some(reader)
    }

    /// Returns the latest of the listeners' deadlines; `None` if the leading caller had none, or another process makes
    /// the call.
    pub(crate) fn deadline(&self) -> Option<SharedDeadline> {
        let state = self.shared.state();
        state.deadline.clone().filter(|_| state.has_begun)
    }

    /// Adds a listener, which reads from the first part on. The call continues as long as there is a listener.
    ///
    /// `None`: the answer exceeds its limit, or the call has failed. It can no longer be read from the beginning.
    #[must_use]
    pub fn reader(&self) -> Option<LogReader> {
        let mut state = self.shared.state();
        if state.failure.is_some() {
            return None;
        }
        let id = state.broadcast.join()?;
        drop(state);
        Some(LogReader::listener(self.shared.clone(), id))
    }

    /// Adds an observer: a reader for a store that sends the answer elsewhere. The recorder does not wait for it, and it
    /// does not keep the call alive, unless it [listens](LogReader::listen). It does not see `Set-Cookie`. When the answer
    /// exceeds its limit, it reads an error.
    #[must_use]
    pub fn observer(&self) -> Option<LogReader> {
        let mut state = self.shared.state();
        let id = state.broadcast.observe()?;
        state.was_observed = true;
        drop(state);
        Some(LogReader::observer(self.shared.clone(), id))
    }

    /// The number of listeners.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.shared.state().broadcast.listeners()
    }

    /// Whether the call failed, or was cancelled because its last listener left: the same request needs a new call.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.state().failure.is_some()
    }

    /// Returns the waker for the upstream: it wakes all waiting readers.
    pub(crate) fn upstream_waker(&self) -> Waker {
        Waker::from(self.shared.clone())
    }

    /// The number of times that the upstream has woken its waker.
    pub(crate) fn wake_count(&self) -> u64 {
        self.shared.wake_count()
    }

    /// Wakes all waiting readers.
    pub(crate) fn wake_readers(&self) {
        self.shared.wake_readers();
    }

    /// Returns a waker of all readers, for as long as the log exists.
    pub(crate) fn readers_waker(&self) -> Waker {
        Waker::from(Arc::new(ReadersWaker(Arc::downgrade(&self.shared))))
    }

    /// Lets readers that have read everything poll the upstream through `driver`.
    pub(crate) fn attach(&self, driver: Arc<dyn Drive>) {
        self.shared.state().driver = Some(driver);
    }

    /// Adds the task that keeps the call alive while there is no listener.
    pub(crate) fn add_watcher(&self) -> ReaderId {
        self.shared.state().broadcast.watch()
    }

    /// Returns the state for the watcher, and wakes it when that changes.
    pub(crate) fn watch(&self, watcher: ReaderId, waker: &Waker) -> Watched {
        let mut state = self.shared.state();
        if state.broadcast.listeners() > 0 || state.broadcast.has_ended() {
            state.is_watched = false;
            return Watched::NotNeeded;
        }
        let abandon_count = state.abandon_count;
        let replaced = state.leave_waker(watcher, waker);
        drop(state);
        drop(replaced);
        Watched::Abandoned { abandon_count }
    }

    /// Removes the watcher.
    pub(crate) fn remove_watcher(&self, watcher: ReaderId) {
        let waker = self.shared.state().broadcast.leave(watcher);
        drop(waker);
    }

    /// Cancels the call: no caller can join any more. Returns `false`, and does nothing, if there is a listener.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.shared.state();
        state.is_watched = false;
        if state.broadcast.listeners() > 0 {
            return false;
        }
        state.failure.get_or_insert_with(|| SharedError::new("the call was cancelled: no caller was left"));
        state.broadcast.stop_recording();
        let driver = state.driver.take();
        drop(state);
        drop(driver);
        true
    }

    /// Adds a listener that comes back: it reads the recorded part, even of a failed call. It does not extend the call's
    /// deadline: a token permits reading, not keeping a call alive.
    pub(crate) fn return_reader(&self) -> Option<LogReader> {
        let id = self.shared.state().broadcast.join()?;
        // The task that kept the call alive is no longer needed.
        self.shared.wake_readers();
        Some(LogReader::listener(self.shared.clone(), id))
    }

    /// Ends the call, even with listeners, which read an error. Returns `false`, and does nothing, if it has ended.
    pub(crate) fn stop(&self) -> bool {
        let mut state = self.shared.state();
        if state.broadcast.has_ended() {
            return false;
        }
        state.failure.get_or_insert_with(|| SharedError::new(Stopped));
        state.broadcast.stop_recording();
        state.broadcast.finish();
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.on_stopped();
        }
        self.shared.wake_readers();
        true
    }

    /// Whether nothing more will come.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.state().broadcast.has_ended()
    }

    /// Returns the log's own number, for callers that come back.
    pub(crate) fn number(&self) -> Option<u64> {
        self.shared.state().number
    }

    pub(crate) fn set_number(&self, number: u64) {
        self.shared.state().number = Some(number);
    }

    /// Keeps the recorded part readable after a failure, for readers that [come back](Self::return_reader).
    pub(crate) fn hold_when_failed(&self) {
        self.shared.state().is_held_when_failed = true;
    }

    /// Whether parts that were recorded elsewhere may still be missing. Readers of a log that has ended know.
    pub(crate) fn is_behind(&self) -> bool {
        self.shared.state().is_behind
    }

    /// Lets `charge` count the recorded parts until the last listener has left.
    pub(crate) fn add_charge(&self, charge: impl Send + 'static) {
        self.shared.state().add_charge(charge);
    }

    /// Lets `charge` count the parts that listeners hold until the last of them has left.
    pub(crate) fn leave_charge(&self, charge: impl Send + 'static) {
        let mut state = self.shared.state();
        if state.broadcast.listeners() == 0 {
            drop(state);
            drop(charge);
            return;
        }
        state.add_charge(charge);
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.shared.state().broadcast.is_recording()
    }
}

impl Wake for ReadersWaker {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.wake_readers();
        }
    }
}

impl fmt::Debug for ResponseLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("ResponseLog")
            .field("listeners", &state.broadcast.listeners())
            .field("bytes", &state.broadcast.cost())
            .field("recording", &state.broadcast.is_recording())
            .field("ended", &state.broadcast.has_ended())
            .finish_non_exhaustive()
    }
}

// === impl Stopped ===

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call was stopped by its caller")
    }
}

impl std::error::Error for Stopped {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::{BodyPart, Recorder, ResponseLog};
    use crate::call::RetryReport;
    use crate::policy::broadcast::LogLimits;
    use crate::rt::deadline::Deadline;

    fn log() -> (Recorder, ResponseLog) {
        Recorder::open(LogLimits { bytes: 1_000_000, lag: Duration::from_secs(1) })
    }

    fn in_secs(secs: u64) -> Deadline {
        Deadline::after(Duration::from_secs(secs)).unwrap()
    }

    #[test]
    fn a_listener_that_joins_before_the_call_begins_learns_of_its_attempts() {
        for own in [None, Some(RetryReport::new())] {
            let (_recorder, log) = log();
            let early = RetryReport::new();
            let _reader = log.join(None, Some(&early)).unwrap();
            let (_, report) = log.begin(None, own.clone());
            report.set(3, true);
            assert_eq!((early.attempts(), early.is_final()), (3, true));
            assert!(own.is_none_or(|own| own.attempts() == 3), "so does its own caller");
        }
    }

    #[test]
    fn a_listener_that_joins_before_the_call_begins_extends_its_deadline() {
        let (one, other) = (in_secs(1), in_secs(60));
        for (early, own, latest) in
            [(Some(other), Some(one), Some(other)), (Some(one), Some(other), Some(other)), (None, Some(one), None)]
        {
            let (_recorder, log) = log();
            let _reader = log.join(early, None).unwrap();
            assert!(log.deadline().is_none(), "not the call's yet");
            let shared = log.begin(own, None).0.unwrap();
            assert_eq!(shared.latest(), latest);
            shared.note_first_propagated(Duration::from_secs(1));
            assert_eq!(
                shared.propagated(),
                Some(Duration::from_secs(1)),
                "the early listener's deadline changes nothing"
            );
        }
        let (_recorder, log) = log();
        let _early = log.join(Some(one), None).unwrap();
        assert!(log.begin(None, None).0.is_none(), "its own caller waits without a limit");
        let _late = log.join(Some(one), None).unwrap();
        assert!(log.deadline().is_none());
    }

    #[test]
    fn a_store_that_reads_twice_finds_the_same_parts() {
        let (mut recorder, log) = log();
        let mut write = |n: u8| recorder.part(BodyPart::Data(Bytes::from(vec![n; 10])));
        let lengths = || {
            let mut reader = log.observer().unwrap();
            std::iter::from_fn(|| reader.next_recorded()).map(|part| part.cost()).collect::<Vec<_>>()
        };
        (0..5).for_each(&mut write);
        let first = lengths();
        assert!(first.len() < 5, "what was there before was merged");
        (5..9).for_each(&mut write);
        let second = lengths();
        assert_eq!(second[..first.len()], first);
    }

    #[test]
    fn frames_that_stay_apart_share_their_memory() {
        let (mut recorder, log) = log();
        // A store may read again: from now on each frame stays a part.
        drop(log.observer());
        (0..1_000).for_each(|_| recorder.part(BodyPart::Data(Bytes::from(vec![7; 50]))));
        let mut reader = log.observer().unwrap();
        let mut end = std::ptr::null();
        let apart = std::iter::from_fn(|| reader.next_recorded()).filter(|part| {
            let BodyPart::Data(data) = part else { panic!("no data") };
            data.as_ptr() != std::mem::replace(&mut end, data.as_ptr_range().end)
        });
        assert!(apart.count() < 1_000 * 50 / 4096 + 12);
    }
}
