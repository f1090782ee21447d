//! The state behind a queue's lock: waiting calls, vacant places, and unread places.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::Config;
use super::slots::{Slots, Taken};
use crate::policy::micros::Micros;
use crate::policy::queue::{Load, PlaceGrant, Places, Ticket};
use crate::rt::sync::Ordering;

pub(super) struct State {
    pub(super) places: Places<PlaceWaiter>,
    /// Vacant places, which calls may take only under the lock.
    vacant: Vec<u32>,
    /// The same beyond the limit, for use while others are passed over.
    free_slots: Vec<u32>,
    /// The turns at the last check.
    seen: Box<[u32]>,
    /// The rounds in which an adaptive limit gave its places.
    rounds: Box<[u32]>,
    /// The next check, while calls wait.
    sweep: Option<Instant>,
    granted: u32,
    /// The values that the gauges show.
    pub(super) shown: [f64; 2],
}

pub(super) enum PlaceWaiter {
    Waiting(Option<Waker>),
    Granted(HeldPlace),
    /// Its tenant's queue was the longest when the queue was full.
    Evicted,
}

/// A place, held by one call until it is given back. The rest is in its slot: calls are moved often.
#[derive(Debug)]
pub(super) struct HeldPlace {
    pub(super) slot: u32,
}

/// Wakers to call when the lock is free. One in the usual case.
#[derive(Default)]
pub(super) struct Woken(Option<Waker>, Vec<Waker>);

/// How long a reader may leave data unread before it counts as not reading.
pub(super) const UNREAD: Duration = Duration::from_secs(1);
/// While calls wait, the hold time is measured for one call in this number.
const MEASURED: u32 = 8;

// === impl State ===

impl State {
    pub(super) fn new(config: &Config, slots: &Slots) -> Self {
        let limit = config.limit;
        let places = limit.most();
        Self {
            places: Places::new(limit.limit(), config.max_waiting),
            vacant: if limit.is_fixed() { Vec::new() } else { (0..places).rev().collect() },
            free_slots: (places..slots.len()).rev().collect(),
            seen: slots.turns().map(|_| 0).collect(),
            rounds: if limit.counts_losses() { slots.turns().map(|_| 0).collect() } else { Box::default() },
            sweep: None,
            granted: 0,
            shown: [0.0; 2],
        }
    }

    /// Takes a place that has become free meanwhile, if no call waits. Otherwise all calls in flight count from now on.
    pub(super) fn take_last(&mut self, tenant: u64, is_fixed: bool, slots: &Slots) -> Option<Taken> {
        let Self { places, .. } = self;
        if !is_fixed || places.is_full() {
            return None;
        }
        slots.take_any(tenant).or_else(|| slots.count(tenant, |holder| places.count(holder)))
    }

    pub(super) fn enter(&mut self, tenant: u64, slots: &Slots, now: impl FnOnce() -> Micros) -> Option<HeldPlace> {
        let grant = self.places.enter(tenant)?;
        Some(self.place(grant, slots, now))
    }

    /// It is the upstream's turn first. For one in a few calls the time is measured: the mean of those is as good.
    pub(super) fn place(&mut self, grant: PlaceGrant, slots: &Slots, now: impl FnOnce() -> Micros) -> HeldPlace {
        let slot = self.vacant.pop().or_else(|| self.free_slots.pop()).unwrap_or(u32::MAX);
        slots.assign(slot, grant.tenant);
        self.granted = self.granted.wrapping_add(1);
        slots.set_since(slot, if self.granted % MEASURED == 1 { now() } else { 0 });
        if let Some(round) = at(&mut self.rounds, slot) {
            *round = grant.round;
        }
        HeldPlace { slot }
    }

    pub(super) fn leave(&mut self, place: &HeldPlace, load: Load, hold: Option<Micros>, slots: &Slots) {
        if let Some(tenant) = slots.tenant(place.slot) {
            let round = at(&mut self.rounds, place.slot).map_or(0, |round| *round);
            self.places.leave(PlaceGrant { tenant, round }, load, hold);
        }
        slots.vacate(place.slot);
        // The next call here has not been looked at.
        if let Some(seen) = at(&mut self.seen, place.slot) {
            *seen = 0;
        }
        if slots.is_place(place.slot) {
            self.vacant.push(place.slot);
        } else if place.slot < slots.len() {
            self.free_slots.push(place.slot);
        }
    }

    /// No call waits: new calls may take vacant places, less the number of calls beyond the limit.
    pub(super) fn free_places(&mut self, slots: &Slots) {
        let beyond = usize::try_from(slots.spares()).unwrap_or(usize::MAX).saturating_sub(self.free_slots.len());
        while self.vacant.len() > beyond {
            let Some(slot) = self.vacant.pop() else { return };
            slots.free(slot);
        }
    }

    pub(super) fn forget(&mut self, ticket: Ticket) -> Option<HeldPlace> {
        match self.places.forget(ticket) {
            Some(PlaceWaiter::Granted(place)) => Some(place),
            _ => None,
        }
    }

    /// A call waits: readers are checked from now on.
    pub(super) fn begin_sweeps(&mut self, slots: &Slots, now: Instant) {
        if self.sweep.is_none() {
            self.look(slots);
            self.sweep = now.checked_add(UNREAD);
        }
    }

    /// When the readers must be checked.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        self.sweep
    }

    /// Finds readers that have left data unread since the last check, and passes over their places beyond their half, and
    /// those of calls whose requests have been on their way as long. Returns whether it was time.
    pub(super) fn sweep(&mut self, slots: &Slots, now: Instant) -> bool {
        let is_due = self.sweep.is_some_and(|due| due <= now);
        if is_due {
            let (unread, uploading) = self.look(slots);
            self.places.pass_over(unread, uploading);
            self.sweep = now.checked_add(UNREAD);
        }
        is_due
    }

    pub(super) fn end_sweeps(&mut self) {
        if self.sweep.take().is_some() {
            self.places.pass_over(0, 0);
        }
    }

    /// The numbers of calls that have waited for their reader since the last check, and of those that were being sent.
    fn look(&mut self, slots: &Slots) -> (u32, u32) {
        let (mut unread, mut uploading) = (0, 0);
        for (turn, seen) in slots.turns().zip(&mut self.seen) {
            let turn = turn.load(Ordering::Relaxed);
            if turn == *seen {
                uploading += u32::from(Slots::is_uploading(turn));
                unread += u32::from(Slots::is_unread(turn));
            }
            *seen = turn;
        }
        (unread, uploading)
    }
}

fn at(list: &mut [u32], slot: u32) -> Option<&mut u32> {
    list.get_mut(usize::try_from(slot).ok()?)
}

// === impl Waiter ===

impl PlaceWaiter {
    /// The waker of a waiting call, which sets another when it is polled.
    pub(super) fn take_waker(&mut self) -> Option<Waker> {
        match self {
            Self::Waiting(waker) => waker.take(),
            Self::Granted(_) | Self::Evicted => None,
        }
    }
}

// === impl Woken ===

impl Woken {
    pub(super) fn push(&mut self, waker: Option<Waker>) {
        match (&self.0, waker) {
            (None, waker) => self.0 = waker,
            (Some(_), waker) => self.1.extend(waker),
        }
    }

    pub(super) fn wake(self) {
        self.0.into_iter().chain(self.1).for_each(Waker::wake);
    }
}
