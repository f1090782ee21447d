//! The state that the recorder and the readers of one log share, and their wakers.

use std::fmt;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::drive::Drive;
use super::head::Head;
use super::part::{Compactor, StoredPart};
use crate::call::RetryReport;
use crate::error::SharedError;
use crate::policy::broadcast::{Broadcast, LogLimits, ReaderId};
use crate::rt::deadline::SharedDeadline;
use crate::rt::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock};

// What each frame reads and writes stands together, here and in the types inside: with many streams, each frame fetches
// these cache lines from memory.
#[repr(C)]
pub(super) struct Shared {
    wake_count: AtomicU64,
    state: Mutex<State>,
}

#[repr(C)]
pub(super) struct State {
    /// A store has read along: it may read again, and must find the same parts.
    pub(super) was_observed: bool,
    /// The recorded part stays readable after a failure.
    pub(super) is_held_when_failed: bool,
    /// A store feeds the log, and has not yet written the part that was recorded in the other process.
    pub(super) is_behind: bool,
    /// A task keeps the call alive while there is no listener.
    pub(super) is_watched: bool,
    /// The waker of a recorder that waits for room.
    pub(super) recorder_waker: Option<Waker>,
    pub(super) broadcast: Broadcast<StoredPart, Option<Waker>>,
    pub(super) compactor: Compactor,
    pub(super) head: Option<Arc<Head>>,
    pub(super) failure: Option<SharedError>,
    pub(super) driver: Option<Arc<dyn Drive>>,
    /// The latest of the listeners'.
    pub(super) deadline: Option<SharedDeadline>,
    /// The attempts that the call has made.
    pub(super) report: Option<RetryReport>,
    /// This process makes the call: deadline and report are those of its caller too.
    pub(super) has_begun: bool,
    /// Identifies the log, for callers that come back.
    pub(super) number: Option<u64>,
    /// How often the last listener left.
    pub(super) abandon_count: u64,
    /// Counts the held data, until the last listener has left.
    pub(super) charge: Option<Box<dyn Send>>,
}

/// Wakers are called outside the lock, in batches of this size.
const AT_A_TIME: usize = 32;

// === impl Shared ===

impl Shared {
    pub(super) fn new(limits: LogLimits) -> Self {
        let state = State {
            broadcast: Broadcast::new(limits),
            compactor: Compactor::default(),
            head: None,
            failure: None,
            driver: None,
            deadline: None,
            report: None,
            has_begun: false,
            number: None,
            was_observed: false,
            is_held_when_failed: false,
            is_behind: false,
            recorder_waker: None,
            is_watched: false,
            abandon_count: 0,
            charge: None,
        };
        Self { state: Mutex::new(state), wake_count: AtomicU64::new(0) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn wake_count(&self) -> u64 {
        self.wake_count.load(Ordering::SeqCst)
    }

    /// Wakes the waiting readers, and the recorder.
    pub(super) fn wake_readers(&self) {
        let mut state = self.state();
        let recorder = state.recorder_waker.take();
        let mut waiting = state.broadcast.attached_from(0);
        // The usual case: one reader.
        let first = waiting.next().and_then(|(_, waker)| waker.take());
        let has_others = waiting.next().is_some();
        drop(waiting);
        drop(state);
        [first, recorder].into_iter().flatten().for_each(Waker::wake);
        if has_others {
            self.wake_from(1);
        }
    }

    fn wake_from(&self, mut place: usize) {
        loop {
            let mut wakers = [const { None }; AT_A_TIME];
            let mut free = wakers.iter_mut();
            let mut has_more = false;
            let mut state = self.state();
            for (at, waker) in state.broadcast.attached_from(place) {
                place = at + 1;
                if waker.is_none() {
                    continue;
                }
                let Some(free) = free.next() else {
                    (place, has_more) = (at, true);
                    break;
                };
                *free = waker.take();
            }
            drop(state);
            wakers.into_iter().flatten().for_each(Waker::wake);
            if !has_more {
                return;
            }
        }
    }
}

/// The upstream's waker.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Counted before any reader is woken: the reader that is polling the upstream sees the new count, and wakes the
        // others again.
        self.wake_count.fetch_add(1, Ordering::SeqCst);
        self.wake_readers();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// Leaves `waker` for `reader`. Returns the previous one, to be dropped outside the lock.
    #[must_use = "a waker must not be dropped under the lock"]
    pub(super) fn leave_waker(&mut self, reader: ReaderId, waker: &Waker) -> Option<Waker> {
        let left = self.broadcast.attached(reader)?;
        if left.as_ref().is_some_and(|left| left.will_wake(waker)) {
            return None;
        }
        left.replace(waker.clone())
    }

    /// Takes the waker of a reader that need not be woken, to be dropped outside the lock.
    #[must_use = "a waker must not be dropped under the lock"]
    pub(super) fn take_waker(&mut self, reader: ReaderId) -> Option<Waker> {
        self.broadcast.attached(reader)?.take()
    }

    /// Whether a reader waits for the next part.
    pub(super) fn has_waiting_reader(&mut self) -> bool {
        self.broadcast.attached_from(0).any(|(_, waker)| waker.is_some())
    }

    /// Lets the last listener hold this, too.
    pub(super) fn add_charge(&mut self, charge: impl Send + 'static) {
        self.charge = Some(match self.charge.take() {
            Some(before) => Box::new((before, charge)),
            None => Box::new(charge),
        });
    }

    /// Notes that a listener left. Returns the driver to call, if it was the last listener.
    pub(super) fn listener_left(&mut self) -> Option<Arc<dyn Drive>> {
        if self.broadcast.listeners() > 0 || self.broadcast.has_ended() {
            return None;
        }
        self.abandon_count += 1;
        let driver = self.driver.clone()?;
        // An existing watcher starts again.
        (!std::mem::replace(&mut self.is_watched, true)).then_some(driver)
    }
}
