use std::fmt;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::head::Head;
use super::part::{Compactor, Part};
use super::reader::Reader;
use crate::error::{BoxError, SharedError};
use crate::policy::flight::{Flight, Limits, ReaderId};
use crate::rt::deadline::{Deadline, SharedDeadline};
use crate::rt::sync::{AtomicU64, Mutex, Ordering, lock};

/// One call, as it is told: a head, parts, and an end, by one [`Recorder`] to any number of [`Reader`]s.
///
/// A reader hears all of it from the first part on, whenever it comes, as long as the recording is within its limit.
/// What is held is held once, however many read it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// The one who tells a [`Log`] what is said. Dropped before the end, it leaves an error to the readers.
pub struct Recorder {
    shared: Arc<Shared>,
    compactor: Compactor,
    head_cost: usize,
    over: bool,
}

/// What asks the upstream for more when a reader has read all there is. Where a log has none, somebody feeds it.
pub(crate) trait Drive: Send + Sync {
    /// Asks the upstream, unless somebody does so already. The log's own waker is left with it; the reader's must have
    /// been left with the log before.
    fn drive(&self, reader: Option<ReaderId>) -> Driven;

    /// The last listener has left.
    fn on_abandoned(self: Arc<Self>);
}

/// What became of a part.
pub(crate) struct Appended {
    /// It was for this reader.
    pub(crate) part: Option<Part>,
    /// Others wait for it, and must be woken.
    pub(crate) waited_for: bool,
    /// Whether it was recorded, with all that came before.
    pub(crate) recording: bool,
    /// What is held costs this much now.
    pub(crate) cost: usize,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Driven {
    /// Nothing yet.
    Wait,
    /// Something: look again.
    Progress,
    /// The part that this reader would read next. It counts as read.
    Part(Part),
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// How often the upstream has said that it wants to be asked.
    rings: AtomicU64,
}

pub(super) struct State {
    pub(super) flight: Flight<Part, Option<Waker>>,
    pub(super) head: Option<Arc<Head>>,
    pub(super) failure: Option<SharedError>,
    pub(super) engine: Option<Arc<dyn Drive>>,
    /// The latest of the listeners' deadlines; `None` where the first of them has none.
    deadline: Option<SharedDeadline>,
    /// Somebody keeps the call going while nobody listens.
    pub(super) kept: bool,
    /// How often the last listener left.
    pub(super) abandon_count: u64,
    /// Counts what is held, until the last listener has left.
    pub(super) account: Option<Box<dyn Send>>,
}

/// Wakers are called without a lock: as many at a time as fit here.
const AT_A_TIME: usize = 32;

// === impl Log ===

impl Log {
    pub(crate) fn new(limits: Limits) -> (Recorder, Self) {
        let state = State {
            flight: Flight::new(limits),
            head: None,
            failure: None,
            engine: None,
            deadline: None,
            kept: false,
            abandon_count: 0,
            account: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), rings: AtomicU64::new(0) });
        let recorder = Recorder { shared: shared.clone(), compactor: Compactor::default(), head_cost: 0, over: false };
        (recorder, Self { shared })
    }

    /// Joins with a deadline: the call's is that of the last of its listeners.
    pub(crate) fn join(&self, deadline: Option<Deadline>) -> Option<Reader> {
        let reader = self.reader()?;
        let shared = self.shared.state().deadline.clone();
        if let Some(shared) = shared {
            shared.extend(deadline);
        }
        Some(reader)
    }

    /// Listens from the first part on: the call goes on as long as somebody does.
    ///
    /// `None`: the call has outgrown its recording, or has failed. It cannot be heard from the beginning any more.
    #[must_use]
    pub fn reader(&self) -> Option<Reader> {
        let mut state = self.shared.state();
        if state.failure.is_some() {
            return None;
        }
        let id = state.flight.join()?;
        Some(Reader::new(self.shared.clone(), id))
    }

    /// Reads along without listening: nobody waits for an observer, and the call does not go on for its sake. For
    /// stores that send what they are told elsewhere. It is shown no `Set-Cookie`. When the recording outgrows its
    /// limit, it is told that it is lost.
    #[must_use]
    pub fn observer(&self) -> Option<Reader> {
        let id = self.shared.state().flight.observe()?;
        Some(Reader::observing(self.shared.clone(), id))
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.shared.state().flight.listeners()
    }

    /// The call came to nothing, or nobody was left to hear it: whoever asks for the same must ask anew.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.state().failure.is_some()
    }

    /// The waker to leave with the upstream.
    pub(crate) fn bell(&self) -> Waker {
        Waker::from(self.shared.clone())
    }

    /// How often the upstream has rung the bell.
    pub(crate) fn rings(&self) -> u64 {
        self.shared.rings.load(Ordering::SeqCst)
    }

    /// Tells all who wait to look again.
    pub(crate) fn ring(&self) {
        self.shared.ring();
    }

    /// From now on, readers who have read all there is ask `engine`.
    pub(crate) fn attach(&self, engine: Arc<dyn Drive>) {
        self.shared.state().engine = Some(engine);
    }

    /// From now on, those who join extend `deadline`.
    pub(crate) fn until(&self, deadline: SharedDeadline) {
        self.shared.state().deadline = Some(deadline);
    }

    /// Enters somebody who keeps the call going while nobody listens.
    pub(crate) fn keep(&self) -> ReaderId {
        self.shared.state().flight.keep()
    }

    /// What the keeper must know, and is told of again when it changes: whether anybody listens, and how often
    /// everybody left. Where somebody does, the keeper is relieved.
    pub(crate) fn watch(&self, keeper: ReaderId, waker: &Waker) -> Watched {
        let mut state = self.shared.state();
        if state.flight.listeners() > 0 || state.flight.is_over() {
            state.kept = false;
            return Watched::Relieved;
        }
        let abandon_count = state.abandon_count;
        let replaced = state.leave_waker(keeper, waker);
        drop(state);
        drop(replaced);
        Watched::Alone { abandon_count }
    }

    /// The keeper gives up. `false` where somebody listens after all.
    pub(crate) fn give_up(&self) -> bool {
        let mut state = self.shared.state();
        state.kept = false;
        if state.flight.listeners() > 0 {
            return false;
        }
        state.failure.get_or_insert_with(|| SharedError::new("nobody was left to hear the answer"));
        state.flight.stop_recording();
        let engine = state.engine.take();
        drop(state);
        drop(engine);
        true
    }

    /// The keeper goes away.
    pub(crate) fn leave(&self, keeper: ReaderId) {
        let waker = self.shared.state().flight.leave(keeper);
        drop(waker);
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.shared.state().flight.is_recording()
    }
}

/// What a keeper sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// It is not needed any more.
    Relieved,
    /// Nobody listens. The number tells one time from another.
    Alone { abandon_count: u64 },
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Log")
            .field("listeners", &state.flight.listeners())
            .field("bytes", &state.flight.cost())
            .field("recording", &state.flight.is_recording())
            .field("over", &state.flight.is_over())
            .finish_non_exhaustive()
    }
}

// === impl Recorder ===

impl Recorder {
    /// The log that is told.
    #[must_use]
    pub fn log(&self) -> Log {
        Log { shared: self.shared.clone() }
    }

    /// Tells the head. The first one counts.
    pub fn head(&mut self, head: Head) {
        self.head_cost = head.cost();
        let mut state = self.shared.state();
        state.head.get_or_insert_with(|| Arc::new(head));
        drop(state);
        self.shared.ring();
    }

    /// Tells the next part of the body.
    pub fn part(&mut self, part: Part) {
        self.append(part, None);
        self.shared.ring();
    }

    /// Tells the next part. Nobody is woken.
    ///
    /// A `reader` who has read all that came before is given it back, and will not read it again.
    pub(crate) fn append(&mut self, part: Part, reader: Option<ReaderId>) -> Appended {
        let mut state = self.shared.state();
        let flight = &mut state.flight;
        let next = reader.filter(|&id| flight.is_at_tip(id));
        // Behind no recording, and with one listener: nobody else will ever read it.
        let shared = flight.is_recording() || flight.listeners() > 1;
        let held = if shared { self.compactor.compact(&part) } else { part.clone() };
        flight.push(held, part.cost());
        let read = next.map(|reader| (state.flight.read(reader), state.take_waker(reader)));
        let told = Appended {
            part: next.map(|_| part),
            waited_for: state.is_waited_for(),
            recording: state.flight.is_recording(),
            cost: self.head_cost.saturating_add(state.flight.cost()),
        };
        drop(state);
        drop(read);
        told
    }

    /// The head's share of what is held.
    pub(crate) fn head_cost(&self) -> usize {
        self.head_cost
    }

    /// There is no room for this recording (or window) to grow, or there is again.
    pub(crate) fn set_storage_full(&self, storage_full: bool) {
        self.shared.state().flight.set_storage_full(storage_full);
    }

    /// Nobody else may join from now on.
    pub(crate) fn stop_recording(&self) {
        self.shared.state().flight.stop_recording();
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.shared.state().flight.is_recording()
    }

    /// Nothing more will be held, and what is held is `account`'s until the last listener has left.
    pub(crate) fn leave_account(&self, account: impl Send + 'static) {
        let mut state = self.shared.state();
        if state.flight.listeners() > 0 && state.flight.cost() > 0 {
            state.account = Some(Box::new(account));
        } else {
            drop(state);
            drop(account);
        }
    }

    /// It is all told.
    pub fn finish(mut self) {
        self.end(None);
    }

    /// It broke off. Those who read along are told why, after what was told before; nobody can join any more.
    pub fn fail(mut self, why: impl Into<BoxError>) {
        self.end(Some(SharedError::new(why)));
    }

    fn end(&mut self, failure: Option<SharedError>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let mut state = self.shared.state();
        if let Some(failure) = failure {
            state.failure.get_or_insert(failure);
            state.flight.stop_recording();
        }
        state.flight.finish();
        // What comes now is a replay.
        if state.flight.is_recording() {
            state.head = state.head.as_deref().map(|head| Arc::new(head.stored().compact()));
        }
        let engine = state.engine.take();
        drop(state);
        drop(engine);
        self.shared.ring();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.over {
            self.end(Some(SharedError::new("the call that was listened to was dropped")));
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn state(&self) -> crate::rt::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn ring(&self) {
        let mut state = self.state();
        let mut waiting = state.flight.attached_from(0);
        // The usual case: one reader.
        let first = waiting.next().and_then(|(_, waker)| waker.take());
        let others = waiting.next().is_some();
        drop(waiting);
        drop(state);
        if let Some(waker) = first {
            waker.wake();
        }
        if others {
            self.ring_from(1);
        }
    }

    fn ring_from(&self, mut place: usize) {
        loop {
            let mut wakers = [const { None }; AT_A_TIME];
            let mut free = wakers.iter_mut();
            let mut more = false;
            let mut state = self.state();
            for (at, waker) in state.flight.attached_from(place) {
                place = at + 1;
                if waker.is_none() {
                    continue;
                }
                let Some(slot) = free.next() else {
                    (place, more) = (at, true);
                    break;
                };
                *slot = waker.take();
            }
            drop(state);
            wakers.into_iter().flatten().for_each(Waker::wake);
            if !more {
                return;
            }
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before anybody is woken: whoever holds the upstream at this moment sees that the others looked in vain.
        self.rings.fetch_add(1, Ordering::SeqCst);
        self.ring();
    }
}

// === impl State ===

impl State {
    /// Leaves `waker` for `reader`. What was there before is given back, to be dropped without the lock.
    #[must_use = "a waker must not be dropped under the lock"]
    pub(super) fn leave_waker(&mut self, reader: ReaderId, waker: &Waker) -> Option<Waker> {
        let slot = self.flight.attached(reader)?;
        if slot.as_ref().is_some_and(|left| left.will_wake(waker)) {
            return None;
        }
        slot.replace(waker.clone())
    }

    /// The waker of a reader that need not be woken. To be dropped without the lock.
    #[must_use = "a waker must not be dropped under the lock"]
    pub(super) fn take_waker(&mut self, reader: ReaderId) -> Option<Waker> {
        self.flight.attached(reader)?.take()
    }

    fn is_waited_for(&mut self) -> bool {
        self.flight.attached_from(0).any(|(_, waker)| waker.is_some())
    }
}
