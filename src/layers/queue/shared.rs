//! What all calls through one layer share: its places, who waits for one, and which of them are read from.

use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::{Concurrency, Config};
use super::slots::{Slots, Taken, shortened};
use crate::admission::{Callers, gauge, gauge_add};
use crate::event::Event;
use crate::policy::backoff::between;
use crate::policy::micros::micros;
use crate::policy::queue::{Arrival, Load, PlaceGrant, Places, Ticket};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::entropy::Entropy;
use crate::rt::sync::{AtomicBool, AtomicU32, Mutex, Ordering, lock};

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) callers: Callers,
    slots: Slots,
    state: Mutex<State>,
    /// Whether a call that came now would have to wait. A hint, for those who do not want the lock.
    is_full: AtomicBool,
    /// Whether its gauges have been told of.
    are_shown: AtomicBool,
    entropy: Entropy,
}

struct State {
    places: Places<Waiter>,
    /// Places that no call has, and none may take without the lock.
    vacant: Vec<u32>,
    /// The same beyond the limit: for calls that are given a place while others are passed over.
    spare: Vec<u32>,
    /// What was there when it was last looked at.
    seen: Box<[u32]>,
    /// Who looks, and when next.
    sweeper: Option<Ticket>,
    sweep: Option<Instant>,
    granted: u32,
}

pub(super) enum Waiter {
    Waiting(Option<Waker>),
    Granted(HeldPlace),
    /// Its lane was the longest when the line was full.
    Evicted,
}

/// A place, held by one call. Given back with [`Shared::leave`].
#[derive(Debug)]
pub(super) struct HeldPlace {
    grant: PlaceGrant,
    slot: u32,
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
    Place(HeldPlace),
    Waits(Ticket),
    Full { expected: Option<Duration> },
}

/// What a waiter is told.
pub(super) enum WaitState {
    Place(HeldPlace),
    Full,
    /// It is to look at the readers at this time, where it has been made the one who does.
    Wait(Option<Instant>),
}

/// Who is to be woken when the lock is free. One in the usual case.
#[derive(Default)]
struct Woken(Option<Waker>, Vec<Waker>);

/// How long a reader may leave its data unread before it counts as one that does not read.
const UNREAD: Duration = Duration::from_secs(1);
/// While calls wait, the hold time is measured for one call in this number.
const MEASURED: u32 = 8;
/// While none waits, for one use in this number of each place.
const MEASURED_IDLE: u32 = 64;

// === impl Shared ===

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let most = config.limit.most();
        // What is found out is counted with each call, which takes the lock.
        let are_free = matches!(config.limit, Concurrency::Fixed(_));
        // Places that are passed over make room for as many again.
        let slots = Slots::new(most, are_free);
        let state = State {
            places: Places::new(config.limit.limit(), config.max_waiting),
            vacant: if are_free { Vec::new() } else { (0..most).rev().collect() },
            spare: (most..slots.len()).rev().collect(),
            seen: slots.turns().map(|_| 0).collect(),
            sweeper: None,
            sweep: None,
            granted: 0,
        };
        Self {
            config,
            callers: Callers::default(),
            slots,
            state: Mutex::new(state),
            is_full: AtomicBool::new(false),
            are_shown: AtomicBool::new(false),
            entropy: Entropy::default(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed) || (self.is_fixed() && self.slots.are_near_taken())
    }

    /// A call comes that can wait until `patience` has passed.
    #[inline]
    pub(super) fn arrive(&self, tenant: u64, now: impl FnOnce() -> (Instant, Duration)) -> Arrived {
        let tenant = shortened(tenant);
        let taken = if self.is_fixed() { self.slots.take(tenant) } else { None };
        match taken {
            Some(taken) => Arrived::Place(self.taken(tenant, &taken)),
            None => self.arrive_late(tenant, now),
        }
    }

    /// There may be no place.
    #[inline(never)]
    fn arrive_late(&self, tenant: u64, now: impl FnOnce() -> (Instant, Duration)) -> Arrived {
        let mut state = lock(&self.state);
        if let Some(taken) = state.take_last(tenant, self.is_fixed(), &self.slots) {
            self.changed(&state);
            drop(state);
            return Arrived::Place(self.taken(tenant, &taken));
        }
        if let Some(place) = state.enter(tenant, &self.slots) {
            self.changed(&state);
            self.show_entered();
            return Arrived::Place(place);
        }
        let (now, patience) = now();
        let expected = state.places.expected_wait(tenant).map(Duration::from_micros);
        if expected.is_some_and(|expected| expected > patience) {
            self.changed(&state);
            return Arrived::Full { expected };
        }
        let mut woken = Woken::default();
        let ticket = match state.places.wait(tenant, Waiter::Waiting(None)) {
            Arrival::Waits(ticket) => ticket,
            Arrival::Full(_) => {
                self.changed(&state);
                return Arrived::Full { expected };
            }
            Arrival::InPlaceOf { evicted, ticket } => {
                if let Some(waiter) = state.places.waiter(evicted) {
                    woken.push(std::mem::replace(waiter, Waiter::Evicted).waker());
                }
                ticket
            }
        };
        if state.sweep.is_none() {
            state.begin_sweeps(&self.slots, now);
        }
        self.changed(&state);
        drop(state);
        woken.wake();
        Arrived::Waits(ticket)
    }

    /// Whether calls take places without the lock.
    #[inline]
    fn is_fixed(&self) -> bool {
        matches!(self.config.limit, Concurrency::Fixed(_))
    }

    /// Whether what becomes of a call changes the limit.
    #[inline]
    pub(super) fn counts_losses(&self) -> bool {
        !self.is_fixed()
    }

    #[inline]
    fn taken(&self, tenant: u64, taken: &Taken) -> HeldPlace {
        self.show_entered();
        let since = (taken.uses % MEASURED_IDLE == 0).then(crate::rt::clock::now);
        HeldPlace { grant: PlaceGrant::uncounted(tenant), slot: taken.slot, since }
    }

    /// Whether the wait is over; if not, whom to wake when it is.
    pub(super) fn ask(&self, ticket: Ticket, waker: &Waker) -> WaitState {
        let mut state = lock(&self.state);
        match state.places.waiter(ticket) {
            Some(Waiter::Waiting(waiting)) => {
                match waiting {
                    Some(known) => known.clone_from(waker),
                    None => *waiting = Some(waker.clone()),
                }
                let sweeps = *state.sweeper.get_or_insert(ticket) == ticket;
                return WaitState::Wait(if sweeps { state.sweep } else { None });
            }
            Some(Waiter::Granted(_)) => {}
            Some(Waiter::Evicted) | None => {
                drop(state);
                self.forget(ticket);
                return WaitState::Full;
            }
        }
        let mut woken = Woken::default();
        let place = state.forget(ticket, &mut woken);
        drop(state);
        woken.wake();
        place.map_or(WaitState::Full, WaitState::Place)
    }

    /// A waiter goes. What it was given and did not take goes to the next.
    pub(super) fn forget(&self, ticket: Ticket) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        if let Some(place) = state.forget(ticket, &mut woken) {
            self.show_left();
            state.leave(&place, Load::Unknown, None, &self.slots);
        }
        self.pass_on(&mut state, &mut woken);
        drop(state);
        woken.wake();
    }

    /// A call is over.
    #[inline]
    pub(super) fn leave(&self, place: &HeldPlace, load: Load, now: impl FnOnce() -> Instant) {
        self.show_left();
        let hold = place.since.map(|since| now().saturating_duration_since(since));
        if !self.is_fixed() || !self.slots.give_back(place.slot, place.grant.tenant) {
            self.leave_counted(place, load, hold);
        } else if let Some(hold) = hold {
            lock(&self.state).places.held_for(micros(hold));
        }
    }

    #[inline(never)]
    fn leave_counted(&self, place: &HeldPlace, load: Load, hold: Option<Duration>) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        let before = state.places.limit();
        state.leave(place, load, hold, &self.slots);
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
            let unread = state.look(&self.slots);
            state.places.pass_over(unread);
            state.sweep = now.checked_add(UNREAD);
            self.pass_on(&mut state, &mut woken);
        }
        drop(state);
        woken.wake();
    }

    pub(super) fn turn(&self, place: &HeldPlace) -> Option<&AtomicU32> {
        self.slots.turn(place.slot)
    }

    pub(super) fn stats(&self) -> QueueStats {
        // Of many places, without the lock.
        let in_flight = u32::try_from(self.slots.held()).unwrap_or(u32::MAX);
        let state = lock(&self.state);
        QueueStats { limit: state.places.limit(), in_flight, waiting: state.places.waiting() }
    }

    /// A refusal, with the wait that a place takes, a little longer at random so that not all come back at once.
    pub(super) fn refuse(&self, expected: Option<Duration>) -> Rejection {
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::QueueFull });
        let expected = expected.unwrap_or(UNREAD).max(UNREAD);
        let wait = between(expected, expected.saturating_add(expected / 4), &mut self.entropy.rng());
        Rejection::new(RejectionKind::QueueFull).with_retry_after(wait)
    }

    pub(super) fn expected_wait(&self, tenant: u64) -> Option<Duration> {
        lock(&self.state).places.expected_wait(shortened(tenant)).map(Duration::from_micros)
    }

    /// Gives free places to those whose turn it is.
    fn pass_on(&self, state: &mut State, woken: &mut Woken) {
        while let Some((ticket, grant)) = state.places.next() {
            let place = state.place(grant, &self.slots);
            self.show_entered();
            if let Some(waiter) = state.places.waiter(ticket) {
                woken.push(std::mem::replace(waiter, Waiter::Granted(place)).waker());
            }
        }
        if state.places.waiting() == 0 {
            state.end_sweeps();
            if self.is_fixed() {
                state.free_places(&self.slots);
            }
        }
        self.changed(state);
    }

    /// How many places there are is told before a call has to wait for one.
    pub(super) fn show_places(&self) {
        if cfg!(feature = "metrics") && !self.are_shown.swap(true, Ordering::Relaxed) {
            self.changed(&lock(&self.state));
        }
    }

    fn changed(&self, state: &State) {
        let is_full = state.places.is_full();
        if self.is_full.load(Ordering::Relaxed) != is_full {
            self.is_full.store(is_full, Ordering::Relaxed);
        }
        gauge("tower_buttress_queue_limit", self.config.name, || f64::from(state.places.limit()));
        gauge("tower_buttress_queue_waiting", self.config.name, || {
            u32::try_from(state.places.waiting()).map_or(f64::INFINITY, f64::from)
        });
    }

    #[inline]
    fn show_entered(&self) {
        gauge_add("tower_buttress_queue_in_flight", self.config.name, 1.0);
    }

    #[inline]
    fn show_left(&self) {
        gauge_add("tower_buttress_queue_in_flight", self.config.name, -1.0);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).field("stats", &self.stats()).finish()
    }
}

// === impl State ===

impl State {
    /// A place that has become free since this call looked, when none waits. Otherwise all calls under way count from now on.
    fn take_last(&mut self, tenant: u64, is_fixed: bool, slots: &Slots) -> Option<Taken> {
        let Self { places, .. } = self;
        if !is_fixed || places.is_full() {
            return None;
        }
        slots.take_any(tenant).or_else(|| slots.count(tenant, |holder| places.count(holder)))
    }

    fn enter(&mut self, tenant: u64, slots: &Slots) -> Option<HeldPlace> {
        let grant = self.places.enter(tenant)?;
        Some(self.place(grant, slots))
    }

    /// It is the upstream's turn first.
    fn place(&mut self, grant: PlaceGrant, slots: &Slots) -> HeldPlace {
        let slot = self.vacant.pop().or_else(|| self.spare.pop()).unwrap_or(u32::MAX);
        slots.assign(slot, grant.tenant);
        self.granted = self.granted.wrapping_add(1);
        let since = (self.granted % MEASURED == 1).then(crate::rt::clock::now);
        HeldPlace { grant, slot, since }
    }

    fn leave(&mut self, place: &HeldPlace, load: Load, hold: Option<Duration>, slots: &Slots) {
        self.places.leave(place.grant, load, hold.map(micros));
        slots.vacate(place.slot);
        // The next call here has not been looked at.
        if let Some(seen) = usize::try_from(place.slot).ok().and_then(|slot| self.seen.get_mut(slot)) {
            *seen = 0;
        }
        if slots.is_place(place.slot) {
            self.vacant.push(place.slot);
        } else if place.slot < slots.len() {
            self.spare.push(place.slot);
        }
    }

    /// None waits: those that come may take what is vacant, as far as there are not as many calls beyond the limit.
    fn free_places(&mut self, slots: &Slots) {
        let beyond = usize::try_from(slots.spares()).unwrap_or(usize::MAX).saturating_sub(self.spare.len());
        while self.vacant.len() > beyond {
            let Some(slot) = self.vacant.pop() else { return };
            slots.free(slot);
        }
    }

    fn forget(&mut self, ticket: Ticket, woken: &mut Woken) -> Option<HeldPlace> {
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

    fn begin_sweeps(&mut self, slots: &Slots, now: Instant) {
        self.look(slots);
        self.sweep = now.checked_add(UNREAD);
    }

    fn end_sweeps(&mut self) {
        if self.sweep.take().is_some() {
            self.places.pass_over(0);
        }
    }

    /// How many calls have been their reader's turn since this was last asked.
    fn look(&mut self, slots: &Slots) -> u32 {
        let mut unread = 0;
        for (turn, seen) in slots.turns().zip(&mut self.seen) {
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

#[cfg(all(test, buttress_loom))]
mod loom_tests;
