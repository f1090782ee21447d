//! The shared state of one layer: places that are taken without a lock, and the line of waiting calls behind one.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::awaited_head::{HeadState, Heads};
use super::config::{Config, part_for_uploads};
use super::slots::{Slots, Taken, shortened};
use super::state::{HeldPlace, PlaceWaiter, State, UNREAD, Woken};
use crate::admission::{CallerHasher, gauge_add};
use crate::event::Event;
use crate::policy::backoff::between;
use crate::policy::micros::{Micros, micros};
use crate::policy::queue::{EnqueueResult, Load, Ticket};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::alarm::{AlarmedCalls, Alarms};
use crate::rt::clock;
use crate::rt::entropy::Entropy;
use crate::rt::sync::{AtomicBool, Mutex, Ordering, lock};

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) callers: CallerHasher,
    slots: Slots,
    heads: Heads,
    state: Mutex<State>,
    /// Whether a new call would have to wait. A hint for readers without the lock.
    is_full: AtomicBool,
    /// Whether its gauges have been registered.
    are_shown: AtomicBool,
    entropy: Entropy,
    epoch: Instant,
    alarms: Alarms,
    /// The places for calls whose requests are still on their way.
    uploads: Option<Arc<Self>>,
}

/// The state of a [`QueueLayer`](crate::QueueLayer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// How many calls may be in flight.
    pub limit: u32,
    /// How many calls are in flight.
    pub in_flight: u32,
    /// How many calls wait.
    pub waiting: usize,
}

/// The result for a new call.
pub(super) enum PlaceResult {
    Place(HeldPlace),
    Waits(Ticket),
    Full { expected: Option<Duration> },
}

/// The state of a waiting call.
pub(super) enum WaitState {
    Place(HeldPlace),
    Full,
    /// The readers must be checked at this time.
    Wait(Option<Instant>),
}

/// While no call waits, one use in this number of each place is measured.
const MEASURED_IDLE: u32 = 64;

/// The numbers of places and of waiting calls.
const GAUGES: [&str; 2] = ["tower_buttress_queue_limit", "tower_buttress_queue_waiting"];

// === impl Shared ===

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        Self::since(clock::now(), config)
    }

    fn since(epoch: Instant, config: Config) -> Self {
        // An adaptive limit counts every call, which takes the lock.
        let slots = Slots::new(config.limit.most(), config.limit.is_fixed());
        let state = State::new(&config, &slots);
        // One clock: a call may wait in one and then in the other.
        let part = |limit| Arc::new(Self::since(epoch, Config { limit, ..config.clone() }));
        let uploads = config.limit.for_uploads().map(part);
        Self {
            config,
            callers: CallerHasher::default(),
            slots,
            heads: Heads::new(),
            state: Mutex::new(state),
            is_full: AtomicBool::new(false),
            are_shown: AtomicBool::new(false),
            entropy: Entropy::default(),
            epoch,
            alarms: Alarms::new(),
            uploads,
        }
    }

    /// The places for calls whose requests are still on their way.
    pub(super) fn uploads(&self) -> Option<&Arc<Self>> {
        self.uploads.as_ref()
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed) || (self.is_fixed() && self.slots.are_near_taken())
    }

    /// A new call that can wait for `patience`.
    #[inline]
    pub(super) fn arrive(&self, tenant: u64, now: impl FnOnce() -> (Instant, Duration)) -> PlaceResult {
        let tenant = shortened(tenant);
        let taken = if self.is_fixed() { self.slots.take(tenant) } else { None };
        match taken {
            Some(taken) => PlaceResult::Place(self.taken(&taken)),
            None => self.arrive_late(tenant, now),
        }
    }

    /// There may be no free place.
    #[inline(never)]
    fn arrive_late(&self, tenant: u64, now: impl FnOnce() -> (Instant, Duration)) -> PlaceResult {
        let mut state = lock(&self.state);
        if let Some(taken) = state.take_last(tenant, self.is_fixed(), &self.slots) {
            self.changed(&mut state);
            drop(state);
            return PlaceResult::Place(self.taken(&taken));
        }
        if let Some(place) = state.enter(tenant, &self.slots, || self.micros()) {
            self.changed(&mut state);
            self.show_entered();
            return PlaceResult::Place(place);
        }
        let (now, patience) = now();
        let expected = state.places.expected_wait(tenant).map(Duration::from_micros);
        if expected.is_some_and(|expected| expected > patience) {
            self.changed(&mut state);
            return PlaceResult::Full { expected };
        }
        let mut woken = Woken::default();
        let ticket = match state.places.wait(tenant, PlaceWaiter::Waiting(None)) {
            EnqueueResult::Waits(ticket) => ticket,
            EnqueueResult::Full(_) => {
                self.changed(&mut state);
                return PlaceResult::Full { expected };
            }
            EnqueueResult::InPlaceOf { evicted, ticket } => {
                if let Some(waiter) = state.places.waiter(evicted) {
                    woken.push(std::mem::replace(waiter, PlaceWaiter::Evicted).take_waker());
                }
                ticket
            }
        };
        state.begin_sweeps(&self.slots, now);
        self.changed(&mut state);
        drop(state);
        woken.wake();
        PlaceResult::Waits(ticket)
    }

    /// Whether calls take places without the lock.
    #[inline]
    fn is_fixed(&self) -> bool {
        self.config.limit.is_fixed()
    }

    /// Whether a call's result changes the limit.
    #[inline]
    pub(super) fn counts_losses(&self) -> bool {
        self.config.limit.counts_losses()
    }

    #[inline]
    fn taken(&self, taken: &Taken) -> HeldPlace {
        self.show_entered();
        let slot = taken.slot;
        self.slots.set_since(slot, if taken.uses % MEASURED_IDLE == 0 { self.micros() } else { 0 });
        HeldPlace { slot }
    }

    /// The time for measurements; never zero.
    fn micros(&self) -> Micros {
        self.at(clock::now())
    }

    /// This time on the queue's clock.
    pub(super) fn at(&self, now: Instant) -> Micros {
        micros(now.saturating_duration_since(self.epoch)).saturating_add(1)
    }

    /// Whether the wait has ended; if not, `waker` is woken when it has, or at `end`, where an alarm is set.
    pub(super) fn ask(&self, ticket: Ticket, waker: &Waker, end: Micros) -> WaitState {
        let mut state = lock(&self.state);
        match state.places.waiter(ticket) {
            Some(PlaceWaiter::Waiting(waiting)) => {
                match waiting {
                    Some(known) => known.clone_from(waker),
                    None => *waiting = Some(waker.clone()),
                }
                state.places.set_end(ticket, end);
                return WaitState::Wait(state.next_sweep());
            }
            Some(PlaceWaiter::Granted(_)) => {}
            Some(PlaceWaiter::Evicted) | None => {
                drop(state);
                self.forget(ticket);
                return WaitState::Full;
            }
        }
        state.forget(ticket).map_or(WaitState::Full, WaitState::Place)
    }

    /// Removes a waiting call. A place that it was given and did not take goes to the next.
    pub(super) fn forget(&self, ticket: Ticket) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        if let Some(place) = state.forget(ticket) {
            self.show_left();
            state.leave(&place, Load::Unknown, None, &self.slots);
        }
        self.pass_on(&mut state, &mut woken);
        drop(state);
        woken.wake();
    }

    /// A call has ended.
    #[inline]
    pub(super) fn leave(&self, place: &HeldPlace, load: Load) {
        self.show_left();
        let hold = self.slots.since(place.slot).map(|since| self.micros().saturating_sub(since));
        if !self.is_fixed() || !self.slots.give_back(place.slot) {
            self.leave_counted(place, load, hold);
        } else if let Some(hold) = hold {
            lock(&self.state).places.held_for(hold);
        }
    }

    #[inline(never)]
    fn leave_counted(&self, place: &HeldPlace, load: Load, hold: Option<Micros>) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        let before = state.places.limit();
        state.leave(place, load, hold, &self.slots);
        let limit = state.places.limit();
        self.pass_on(&mut state, &mut woken);
        drop(state);
        woken.wake();
        if limit != before {
            self.uploads.as_ref().inspect(|uploads| uploads.set_limit(part_for_uploads(limit)));
            self.config.emitter.emit(&Event::ConcurrencyChanged { limit });
        }
    }

    fn set_limit(&self, places: u32) {
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        state.places.set_limit(places);
        self.pass_on(&mut state, &mut woken);
        drop(state);
        woken.wake();
    }

    /// The request of the call that has this place is still being sent, or no longer.
    pub(super) fn set_uploading(&self, slot: u32, is_uploading: bool) {
        self.slots.set_uploading(slot, is_uploading);
    }

    /// The call that has this place waits for its upstream again.
    #[inline]
    pub(super) fn return_to_upstream(&self, place: &HeldPlace) {
        self.slots.return_to_upstream(place.slot);
    }

    /// The call that has this place waits for its reader now.
    #[inline]
    pub(super) fn leave_to_reader(&self, place: &HeldPlace) {
        self.slots.leave_to_reader(place.slot);
    }

    pub(super) fn set_head(&self, place: &HeldPlace, head: HeadState) {
        self.heads.set(place.slot, head, self.slots.len());
    }

    pub(super) fn take_head(&self, place: &HeldPlace) -> HeadState {
        self.heads.take(place.slot)
    }

    pub(super) fn stats(&self) -> QueueStats {
        // With many places, without the lock.
        let in_flight = u32::try_from(self.slots.held()).unwrap_or(u32::MAX);
        let for_uploads = self.uploads.as_ref().map_or(0, |uploads| uploads.stats().waiting);
        let state = lock(&self.state);
        let waiting = state.places.waiting().saturating_add(for_uploads);
        QueueStats { limit: state.places.limit(), in_flight, waiting }
    }

    /// Returns a refusal with the wait for a place, slightly randomised so that not all callers return at once.
    pub(super) fn refuse(&self, expected: Option<Duration>) -> Rejection {
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::QueueFull });
        let expected = expected.unwrap_or(UNREAD).max(UNREAD);
        let wait = between(expected, expected.saturating_add(expected / 4), &mut self.entropy.rng());
        Rejection::new(RejectionKind::QueueFull).with_retry_after(wait)
    }

    pub(super) fn expected_wait(&self, tenant: u64) -> Option<Duration> {
        lock(&self.state).places.expected_wait(shortened(tenant)).map(Duration::from_micros)
    }

    /// Gives free places to the next waiting calls.
    fn pass_on(&self, state: &mut State, woken: &mut Woken) {
        while let Some((ticket, grant)) = state.places.next() {
            let place = state.place(grant, &self.slots, || self.micros());
            self.show_entered();
            if let Some(waiter) = state.places.waiter(ticket) {
                woken.push(std::mem::replace(waiter, PlaceWaiter::Granted(place)).take_waker());
            }
        }
        if state.places.waiting() == 0 {
            state.end_sweeps();
            self.alarms.end();
            if self.is_fixed() {
                state.free_places(&self.slots);
            }
        }
        self.changed(state);
    }

    /// The number of places is reported before the first call waits.
    pub(super) fn show_places(&self) {
        if cfg!(feature = "metrics") && !self.are_shown.swap(true, Ordering::Relaxed) {
            self.changed(&mut lock(&self.state));
        }
    }

    fn changed(&self, state: &mut State) {
        let is_full = state.places.is_full();
        if self.is_full.load(Ordering::Relaxed) != is_full {
            self.is_full.store(is_full, Ordering::Relaxed);
        }
        if cfg!(feature = "metrics") {
            let limit = if self.is_part() { 0.0 } else { f64::from(state.places.limit()) };
            let shown = [limit, count(state.places.waiting())];
            self.show(std::mem::replace(&mut state.shown, shown), shown);
        }
    }

    /// Queues with the same name are shown together.
    fn show(&self, before: [f64; 2], now: [f64; 2]) {
        for (name, change) in GAUGES.into_iter().zip([now[0] - before[0], now[1] - before[1]]) {
            // Both are shown at first, with their values.
            if change != 0.0 || before == [0.0; 2] {
                gauge_add(name, self.config.name, change);
            }
        }
    }

    #[inline]
    fn show_entered(&self) {
        self.show_in_flight(1.0);
    }

    #[inline]
    fn show_left(&self) {
        self.show_in_flight(-1.0);
    }

    #[inline]
    fn show_in_flight(&self, change: f64) {
        if cfg!(feature = "metrics") && !self.is_part() {
            gauge_add("tower_buttress_queue_in_flight", self.config.name, change);
        }
    }

    /// Whether its calls are those of another queue, too.
    fn is_part(&self) -> bool {
        self.uploads.is_none()
    }
}

impl AlarmedCalls for Shared {
    fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Checks the readers, too, if it is time: places beyond their half go to waiting calls.
    fn wake_ended(&self) -> Option<Instant> {
        let now = clock::now();
        let at = self.at(now);
        let mut woken = Woken::default();
        let mut state = lock(&self.state);
        if state.sweep(&self.slots, now) {
            self.pass_on(&mut state, &mut woken);
        }
        let end = state.places.ended(at, |waiter| woken.push(waiter.take_waker()));
        let end = end.and_then(|end| now.checked_add(Duration::from_micros(end.saturating_sub(at))));
        let next = end.into_iter().chain(state.next_sweep()).min();
        drop(state);
        woken.wake();
        next
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let shown = lock(&self.state).shown;
        if shown != [0.0; 2] {
            self.show(shown, [0.0; 2]);
        }
    }
}

fn count(waiting: usize) -> f64 {
    u32::try_from(waiting).map_or(f64::INFINITY, f64::from)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).field("stats", &self.stats()).finish()
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
