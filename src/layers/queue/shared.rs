//! What all calls through one layer share: its places, who waits for one, and which of them are read from.

use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::Config;
use crate::admission::{Callers, gauge};
use crate::event::Event;
use crate::policy::backoff::between;
use crate::policy::micros::micros;
use crate::policy::queue::{Arrival, Grant, Load, Places, Ticket};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::entropy::Entropy;
use crate::rt::sync::{AtomicBool, AtomicU32, Mutex, Ordering, lock};

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) callers: Callers,
    state: Mutex<State>,
    /// Whether a call that came now would have to wait. A hint, for those who do not want the lock.
    is_full: AtomicBool,
    /// Of each call under way, how often its body changed between its upstream's turn and its reader's: odd, its
    /// reader's.
    turns: Box<[AtomicU32]>,
    entropy: Entropy,
}

struct State {
    places: Places<Waiter>,
    /// Entries of `turns` that belong to no call.
    free: Vec<u32>,
    /// What was there when it was last looked at.
    seen: Box<[u32]>,
    /// Who looks, and when next.
    sweeper: Option<Ticket>,
    sweep: Option<Instant>,
    granted: u32,
}

pub(super) enum Waiter {
    Waiting(Option<Waker>),
    Granted(Place),
    /// Its lane was the longest when the line was full.
    Evicted,
}

/// A place, held by one call. Given back with [`Shared::leave`].
#[derive(Debug)]
pub(super) struct Place {
    grant: Grant,
    turn: u32,
    /// When it was taken, for one in a few calls: the mean of those is as good.
    since: Option<Instant>,
}

/// How a [`QueueLayer`](crate::QueueLayer) is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// How many calls may be under way.
    pub limit: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many wait.
    pub waiting: usize,
}

/// What became of a call that came.
pub(super) enum Arrived {
    Place(Place),
    Waits(Ticket),
    Full { expected: Option<Duration> },
}

/// What a waiter is told.
pub(super) enum Answer {
    Place(Place),
    Full,
    /// It is to look at the readers at this time, where it has been made the one who does.
    Wait(Option<Instant>),
}

/// Who is to be woken when the lock is free. One in the usual case.
#[derive(Default)]
struct Woken(Option<Waker>, Vec<Waker>);

/// How long a reader may leave its data unread before it counts as one that does not read.
const UNREAD: Duration = Duration::from_secs(1);
/// The time that a place is held is measured once in this number of calls.
const MEASURED: u32 = 8;

// === impl Shared ===

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        // Places that are passed over make room for as many again.
        let calls = config.limit.most().saturating_mul(2);
        let length = usize::try_from(calls).unwrap_or_default();
        let state = State {
            places: Places::new(config.limit.limit(), config.max_waiting),
            free: (0..calls).rev().collect(),
            seen: vec![0; length].into(),
            sweeper: None,
            sweep: None,
            granted: 0,
        };
        Self {
            config,
            callers: Callers::default(),
            state: Mutex::new(state),
            is_full: AtomicBool::new(false),
            turns: (0..length).map(|_| AtomicU32::new(0)).collect(),
            entropy: Entropy::default(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// A call comes that can wait until `patience` has passed.
    pub(super) fn arrive(&self, tenant: u64, now: impl FnOnce() -> (Instant, Duration)) -> Arrived {
        let mut state = lock(&self.state);
        if let Some(place) = state.enter(tenant, &self.turns) {
            self.changed(&state);
            return Arrived::Place(place);
        }
        let (now, patience) = now();
        let expected = state.places.expected_wait(tenant).map(Duration::from_micros);
        if expected.is_some_and(|expected| expected > patience) {
            return Arrived::Full { expected };
        }
        let mut woken = Woken::default();
        let ticket = match state.places.wait(tenant, Waiter::Waiting(None)) {
            Arrival::Waits(ticket) => ticket,
            Arrival::Full(_) => return Arrived::Full { expected },
            Arrival::InPlaceOf { evicted, ticket } => {
                if let Some(waiter) = state.places.waiter(evicted) {
                    woken.push(std::mem::replace(waiter, Waiter::Evicted).waker());
                }
                ticket
            }
        };
        if state.sweep.is_none() {
            state.begin_sweeps(&self.turns, now);
        }
        self.changed(&state);
        drop(state);
        woken.wake();
        Arrived::Waits(ticket)
    }

    /// Whether the wait is over; if not, whom to wake when it is.
    pub(super) fn ask(&self, ticket: Ticket, waker: &Waker) -> Answer {
        let mut state = lock(&self.state);
        match state.places.waiter(ticket) {
            Some(Waiter::Waiting(waiting)) => {
                match waiting {
                    Some(known) => known.clone_from(waker),
                    None => *waiting = Some(waker.clone()),
                }
                let sweeps = *state.sweeper.get_or_insert(ticket) == ticket;
                return Answer::Wait(if sweeps { state.sweep } else { None });
            }
            Some(Waiter::Granted(_)) => {}
            Some(Waiter::Evicted) | None => {
                drop(state);
                self.forget(ticket);
                return Answer::Full;
            }
        }
        let mut woken = Woken::default();
        let place = state.forget(ticket, &mut woken);
        drop(state);
        woken.wake();
        place.map_or(Answer::Full, Answer::Place)
    }

    /// A waiter goes. What it was given and did not take goes to the next.
    pub(super) fn forget(&self, ticket: Ticket) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        if let Some(place) = state.forget(ticket, &mut woken) {
            state.leave(&place, Load::Unknown, None, &self.turns);
        }
        self.pass_on(&mut state, &mut woken);
        drop(state);
        woken.wake();
    }

    /// A call is over.
    pub(super) fn leave(&self, place: &Place, load: Load, now: impl FnOnce() -> Instant) {
        let hold = place.since.map(|since| now().saturating_duration_since(since));
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        let before = state.places.limit();
        state.leave(place, load, hold, &self.turns);
        let limit = state.places.limit();
        self.pass_on(&mut state, &mut woken);
        drop(state);
        woken.wake();
        if limit != before {
            self.config.emitter.emit(&Event::ConcurrencyChanged { limit });
        }
    }

    /// Looks for readers that have left their data unread since the last time, and passes over what is beyond their half.
    pub(super) fn sweep(&self, now: Instant) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        if state.sweep.is_some_and(|due| due <= now) {
            let unread = state.look(&self.turns);
            state.places.pass_over(unread);
            state.sweep = now.checked_add(UNREAD);
            self.pass_on(&mut state, &mut woken);
        }
        drop(state);
        woken.wake();
    }

    pub(super) fn turn(&self, place: &Place) -> Option<&AtomicU32> {
        index(&self.turns, place.turn)
    }

    pub(super) fn stats(&self) -> QueueStats {
        let state = lock(&self.state);
        QueueStats { limit: state.places.limit(), in_flight: state.places.in_use(), waiting: state.places.waiting() }
    }

    /// A refusal, with the wait that a place takes, a little longer at random so that not all come back at once.
    pub(super) fn refuse(&self, expected: Option<Duration>) -> Rejection {
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::QueueFull });
        let expected = expected.unwrap_or(UNREAD).max(UNREAD);
        let wait = between(expected, expected.saturating_add(expected / 4), &mut self.entropy.rng());
        Rejection::new(RejectionKind::QueueFull).with_retry_after(wait)
    }

    pub(super) fn expected_wait(&self, tenant: u64) -> Option<Duration> {
        lock(&self.state).places.expected_wait(tenant).map(Duration::from_micros)
    }

    /// Gives free places to those whose turn it is.
    fn pass_on(&self, state: &mut State, woken: &mut Woken) {
        while let Some((ticket, grant)) = state.places.next() {
            let place = state.place(grant, &self.turns);
            if let Some(waiter) = state.places.waiter(ticket) {
                woken.push(std::mem::replace(waiter, Waiter::Granted(place)).waker());
            }
        }
        if state.places.waiting() == 0 {
            state.end_sweeps();
        }
        self.changed(state);
    }

    fn changed(&self, state: &State) {
        let is_full = state.places.waiting() > 0 || state.places.in_use() >= state.places.limit();
        if self.is_full.load(Ordering::Relaxed) != is_full {
            self.is_full.store(is_full, Ordering::Relaxed);
        }
        gauge("tower_buttress_queue_in_flight", self.config.name, || f64::from(state.places.in_use()));
        gauge("tower_buttress_queue_limit", self.config.name, || f64::from(state.places.limit()));
        gauge("tower_buttress_queue_waiting", self.config.name, || {
            u32::try_from(state.places.waiting()).map_or(f64::INFINITY, f64::from)
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).field("stats", &self.stats()).finish()
    }
}

// === impl State ===

impl State {
    fn enter(&mut self, tenant: u64, turns: &[AtomicU32]) -> Option<Place> {
        let grant = self.places.enter(tenant)?;
        Some(self.place(grant, turns))
    }

    /// It is the upstream's turn first.
    fn place(&mut self, grant: Grant, turns: &[AtomicU32]) -> Place {
        let turn = self.free.pop().unwrap_or(u32::MAX);
        if let Some(turn) = index(turns, turn) {
            turn.store(0, Ordering::Relaxed);
        }
        self.granted = self.granted.wrapping_add(1);
        let since = (self.granted % MEASURED == 1).then(crate::rt::clock::now);
        Place { grant, turn, since }
    }

    fn leave(&mut self, place: &Place, load: Load, hold: Option<Duration>, turns: &[AtomicU32]) {
        self.places.leave(place.grant, load, hold.map(micros));
        if let Some(turn) = index(turns, place.turn) {
            turn.store(0, Ordering::Relaxed);
            self.free.push(place.turn);
        }
    }

    fn forget(&mut self, ticket: Ticket, woken: &mut Woken) -> Option<Place> {
        let waiter = self.places.forget(ticket);
        if self.sweeper == Some(ticket) {
            // Another one that waits takes it over when it is polled.
            self.sweeper = None;
            if let Some(Waiter::Waiting(waker)) = self.places.first() {
                woken.push(waker.clone());
            }
        }
        match waiter {
            Some(Waiter::Granted(place)) => Some(place),
            _ => None,
        }
    }

    fn begin_sweeps(&mut self, turns: &[AtomicU32], now: Instant) {
        self.look(turns);
        self.sweep = now.checked_add(UNREAD);
    }

    fn end_sweeps(&mut self) {
        if self.sweep.take().is_some() {
            self.places.pass_over(0);
        }
    }

    /// How many calls have been their reader's turn since this was last asked.
    fn look(&mut self, turns: &[AtomicU32]) -> u32 {
        let mut unread = 0;
        for (turn, seen) in turns.iter().zip(&mut self.seen) {
            let turn = turn.load(Ordering::Relaxed);
            let is_unread = turn % 2 == 1 && turn == *seen;
            unread += u32::from(is_unread);
            *seen = turn;
        }
        unread
    }
}

// === impl Waiter ===

impl Waiter {
    fn waker(self) -> Option<Waker> {
        match self {
            Self::Waiting(waker) => waker,
            Self::Granted(_) | Self::Evicted => None,
        }
    }
}

// === impl Woken ===

impl Woken {
    fn push(&mut self, waker: Option<Waker>) {
        match (&self.0, waker) {
            (None, waker) => self.0 = waker,
            (Some(_), waker) => self.1.extend(waker),
        }
    }

    fn wake(self) {
        self.0.into_iter().chain(self.1).for_each(Waker::wake);
    }
}

fn index(turns: &[AtomicU32], turn: u32) -> Option<&AtomicU32> {
    turns.get(usize::try_from(turn).ok()?)
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
