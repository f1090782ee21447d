//! The places of a queue, which calls take without its lock while no call waits.
//!
//! # Why not a count of free places?
//!
//! All threads would write it, and it does not identify the calls in flight, which matters as soon as one waits. Here
//! each place is a word of its own, which names the tenant that has it. A call takes a free place by a compare-exchange,
//! and starts searching where its thread last found one, so that threads do not contend.
//!
//! A call that finds no free place has to wait, and then the lock decides which call is next. So it *counts* the calls in
//! flight: it marks each of their places, and the holder of a marked place returns it under the lock. No call takes a
//! marked place, so no waiting call is overtaken.

use std::sync::atomic::AtomicU32 as Hint;

use crate::policy::micros::Micros;
use crate::rt::per_thread;
use crate::rt::sync::{AtomicU32, AtomicU64, Ordering};

/// All places, and as many more for those given while others are passed over.
pub(super) struct Slots {
    all: Box<[PlaceSlot]>,
    /// The number of places.
    places: u32,
    /// Where each thread looks first.
    hints: per_thread::Striped<Hint>,
}

struct PlaceSlot {
    holder: AtomicU64,
    /// Two more with each frame that its call left to its reader, and odd while it waits for that. Or [`UPLOADING`].
    turn: AtomicU32,
    /// How many calls took it.
    uses: AtomicU32,
    /// When its call took it, if the time until it is given back is measured; otherwise zero.
    since: AtomicU64,
}

/// A place that a call took without the lock.
pub(super) struct Taken {
    pub(super) slot: u32,
    /// How many calls had taken this place before.
    pub(super) uses: u32,
}

/// A held place: the other bits are the tenant.
const HELD: u64 = 1;
/// It is, or was, returned under the lock.
const COUNTED: u64 = 2;
/// Free, but not to be taken without the lock.
const VACANT: u64 = COUNTED;
const FREE: u64 = 0;
/// A call checks this many places before it takes the lock to check all.
const NEAR: u32 = 16;
/// The first bit of the tenant.
const TENANT: u32 = 2;
/// Its call's request is still being sent; the other bits identify the call.
const UPLOADING: u32 = 1 << 31;
const READER: u32 = 1;
/// The number of threads with a hint of their own.
const THREADS: usize = 64;

/// Shortens a tenant's hash to the available bits.
pub(super) const fn shortened(tenant: u64) -> u64 {
    tenant >> TENANT
}

// === impl Slots ===

impl Slots {
    /// `are_free`: calls may take these places without the lock.
    pub(super) fn new(places: u32, are_free: bool) -> Self {
        let holder = |slot: u32| if are_free && slot < places { FREE } else { VACANT };
        let slot = |slot| PlaceSlot {
            holder: AtomicU64::new(holder(slot)),
            turn: AtomicU32::new(0),
            uses: AtomicU32::new(0),
            since: AtomicU64::new(0),
        };
        let all: Box<[PlaceSlot]> = (0..places.saturating_mul(2)).map(slot).collect();
        let hints = per_thread::Striped::new(THREADS, Hint::default);
        let threads = u32::try_from(hints.iter().count()).unwrap_or(1).max(1);
        // Each thread starts with a part of the places.
        for (number, hint) in (0_u32..).zip(hints.iter()) {
            let first = u64::from(places) * u64::from(number) / u64::from(threads);
            hint.store(u32::try_from(first).unwrap_or(0), Ordering::Relaxed);
        }
        Self { all, places, hints }
    }

    /// Whether this is one of the places of the limit.
    pub(super) fn is_place(&self, slot: u32) -> bool {
        slot < self.places
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    /// The number of places beyond the limit.
    pub(super) fn spares(&self) -> u32 {
        self.len() - self.places
    }

    /// Takes a nearby free place.
    #[inline]
    pub(super) fn take(&self, tenant: u64) -> Option<Taken> {
        let hint = self.hints.own();
        let first = hint.load(Ordering::Relaxed);
        for at in 0..NEAR.min(self.places) {
            let slot = self.nth(first, at);
            if let Some(taken) = self.take_one(slot, tenant) {
                if at > 0 {
                    hint.store(slot, Ordering::Relaxed);
                }
                return Some(taken);
            }
        }
        None
    }

    /// Takes any free place.
    pub(super) fn take_any(&self, tenant: u64) -> Option<Taken> {
        let hint = self.hints.own();
        let first = hint.load(Ordering::Relaxed);
        let taken = (0..self.places).find_map(|at| self.take_one(self.nth(first, at), tenant))?;
        hint.store(taken.slot, Ordering::Relaxed);
        Some(taken)
    }

    /// Whether no nearby place is free.
    pub(super) fn are_near_taken(&self) -> bool {
        let first = self.hints.own().load(Ordering::Relaxed);
        let is_free =
            |at| self.get(self.nth(first, at)).is_some_and(|slot| slot.holder.load(Ordering::Relaxed) == FREE);
        !(0..NEAR.min(self.places)).any(is_free)
    }

    /// Marks the places of all calls in flight, and passes on their tenants; stops at a place that has become free, and
    /// takes it. Under the lock.
    pub(super) fn count(&self, tenant: u64, mut counted: impl FnMut(u64)) -> Option<Taken> {
        for slot in 0..self.places {
            let Some(this) = self.get(slot) else { continue };
            loop {
                let holder = this.holder.load(Ordering::Relaxed);
                if holder & COUNTED != 0 {
                    break;
                }
                if holder == FREE {
                    match self.take_one(slot, tenant) {
                        None => continue,
                        taken => return taken,
                    }
                }
                if this.replace(holder, holder | COUNTED) {
                    counted(holder >> TENANT);
                    break;
                }
            }
        }
        None
    }

    /// Returns a place that was taken without the lock. `false`: it is marked, and must be returned under the lock.
    #[inline]
    pub(super) fn give_back(&self, slot: u32) -> bool {
        let Some(this) = self.get(slot) else { return false };
        let holder = this.holder.load(Ordering::Relaxed);
        if holder & COUNTED != 0 {
            return false;
        }
        // No other call writes it until the place is free.
        this.turn.store(0, Ordering::Relaxed);
        let is_free = this.replace(holder, FREE);
        if is_free {
            self.hints.own().store(slot, Ordering::Relaxed);
        }
        is_free
    }

    /// Gives a vacant place to a call. Under the lock.
    pub(super) fn assign(&self, slot: u32, tenant: u64) {
        if let Some(slot) = self.get(slot) {
            slot.holder.store(word(tenant) | COUNTED, Ordering::Relaxed);
            slot.uses.store(slot.uses.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// The tenant of the call that has this place.
    pub(super) fn tenant(&self, slot: u32) -> Option<u64> {
        self.get(slot).map(|slot| slot.holder.load(Ordering::Relaxed) >> TENANT)
    }

    /// Notes when the call that has this place took it. Zero: it is not measured.
    #[inline]
    pub(super) fn set_since(&self, slot: u32, since: Micros) {
        if let Some(slot) = self.get(slot) {
            slot.since.store(since, Ordering::Relaxed);
        }
    }

    /// When the call that has this place took it, if that is measured.
    #[inline]
    pub(super) fn since(&self, slot: u32) -> Option<Micros> {
        self.get(slot).map(|slot| slot.since.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    /// The call that had a marked place is over. Under the lock.
    pub(super) fn vacate(&self, slot: u32) {
        if let Some(slot) = self.get(slot) {
            slot.turn.store(0, Ordering::Relaxed);
            slot.holder.store(VACANT, Ordering::Relaxed);
        }
    }

    /// Calls may take a vacant place by themselves. Under the lock.
    pub(super) fn free(&self, slot: u32) {
        if let Some(slot) = self.get(slot) {
            slot.holder.store(FREE, Ordering::Release);
        }
    }

    /// The call that has this place waits for its upstream again. Its request was sent.
    #[inline]
    pub(super) fn return_to_upstream(&self, slot: u32) {
        if let Some(slot) = self.get(slot) {
            // Only its call writes here, once the request has been sent.
            let turn = slot.turn.load(Ordering::Relaxed);
            slot.turn.store(turn & !READER, Ordering::Relaxed);
        }
    }

    /// The call that has this place waits for its reader now. Its request was sent.
    #[inline]
    pub(super) fn leave_to_reader(&self, slot: u32) {
        if let Some(slot) = self.get(slot) {
            let turn = slot.turn.load(Ordering::Relaxed);
            slot.turn.store((turn.wrapping_add(2) | READER) & !UPLOADING, Ordering::Relaxed);
        }
    }

    /// The request of the call that has this place is still being sent, or no longer.
    pub(super) fn set_uploading(&self, slot: u32, is_uploading: bool) {
        if let Some(slot) = self.get(slot) {
            let turn = if is_uploading { slot.uses.load(Ordering::Relaxed) | UPLOADING } else { 0 };
            slot.turn.store(turn, Ordering::Relaxed);
        }
    }

    /// Whether this is the turn of a call whose request is still being sent.
    pub(super) const fn is_uploading(turn: u32) -> bool {
        turn & UPLOADING != 0
    }

    /// Whether this is the turn of a call that waits for its reader.
    pub(super) const fn is_unread(turn: u32) -> bool {
        turn & (UPLOADING | READER) == READER
    }

    pub(super) fn turns(&self) -> impl Iterator<Item = &AtomicU32> {
        self.all.iter().map(|slot| &slot.turn)
    }

    /// How many calls have a place.
    pub(super) fn held(&self) -> usize {
        self.all.iter().filter(|slot| slot.holder.load(Ordering::Relaxed) & HELD != 0).count()
    }

    #[inline]
    fn take_one(&self, slot: u32, tenant: u64) -> Option<Taken> {
        let this = self.get(slot)?;
        if this.holder.load(Ordering::Relaxed) != FREE || !this.replace(FREE, word(tenant)) {
            return None;
        }
        // Only the call that has the place writes there.
        let uses = this.uses.load(Ordering::Relaxed);
        this.uses.store(uses.wrapping_add(1), Ordering::Relaxed);
        Some(Taken { slot, uses })
    }

    /// The places in a ring.
    #[inline]
    fn nth(&self, first: u32, at: u32) -> u32 {
        let slot = first.wrapping_add(at);
        if slot >= self.places { slot.wrapping_sub(self.places) } else { slot }
    }

    #[inline]
    fn get(&self, slot: u32) -> Option<&PlaceSlot> {
        self.all.get(usize::try_from(slot).ok()?)
    }
}

// === impl Slot ===

impl PlaceSlot {
    #[inline]
    fn replace(&self, before: u64, after: u64) -> bool {
        self.holder.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[inline]
const fn word(tenant: u64) -> u64 {
    tenant << TENANT | HELD
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::sync::atomic::AtomicU32 as Count;
    use std::sync::atomic::Ordering::SeqCst;
    use std::thread;

    use super::*;

    #[test]
    fn as_many_calls_have_a_place_as_there_are() {
        let slots = Slots::new(40, true);
        let taken: Vec<_> = (0..40).map(|tenant| (tenant, slots.take_any(tenant).unwrap().slot)).collect();
        assert!(slots.take_any(7).is_none());
        assert_eq!(slots.held(), 40);
        for (tenant, slot) in taken {
            assert_eq!(slots.tenant(slot), Some(tenant));
            assert!(slots.give_back(slot));
        }
        assert_eq!(slots.held(), 0);
    }

    #[test]
    fn one_that_is_counted_is_neither_given_back_nor_taken_without_the_lock() {
        let slots = Slots::new(2, true);
        let places = [1, 2].map(|tenant| slots.take_any(tenant).unwrap().slot);
        let mut counted = Vec::new();
        assert!(slots.count(3, |tenant| counted.push(tenant)).is_none());
        counted.sort_unstable();
        assert_eq!(counted, [1, 2]);
        assert!(!slots.give_back(places[0]));
        slots.vacate(places[0]);
        assert!(slots.take_any(3).is_none());
        slots.free(places[0]);
        assert_eq!(slots.take_any(3).unwrap().slot, places[0]);
        // The next call that finds none counts this one, and not the other once more.
        let mut counted = Vec::new();
        assert!(slots.count(4, |tenant| counted.push(tenant)).is_none());
        assert_eq!(counted, [3]);
    }

    #[test]
    fn a_thread_goes_on_looking_where_it_found_a_place_far_away() {
        let slots = Slots::new(64, true);
        let first = slots.hints.own().load(Ordering::Relaxed);
        for at in 0..=NEAR {
            slots.take_one(slots.nth(first, at), 1).unwrap();
        }
        assert!(slots.are_near_taken() && slots.take(2).is_none());
        assert!(slots.take_any(2).is_some());
        assert!(!slots.are_near_taken() && slots.take(2).is_some());
    }

    #[test]
    fn counting_ends_at_a_place_that_is_free() {
        let slots = Slots::new(3, true);
        let first = slots.take_any(1).unwrap().slot;
        let last = slots.take_any(2).unwrap().slot;
        let taken = slots.count(5, |_| ()).unwrap().slot;
        assert!(taken != first && taken != last);
        assert_eq!(slots.held(), 3);
    }

    #[test]
    fn threads_take_each_place_once() {
        let (slots, under_way, most) = (Slots::new(3, true), Count::new(0), Count::new(0));
        thread::scope(|scope| {
            for tenant in 0..4 {
                let (slots, under_way, most) = (&slots, &under_way, &most);
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let Some(taken) = slots.take(tenant) else { continue };
                        most.fetch_max(under_way.fetch_add(1, SeqCst) + 1, SeqCst);
                        under_way.fetch_sub(1, SeqCst);
                        assert!(slots.give_back(taken.slot));
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= 3);
        assert_eq!(slots.held(), 0);
    }
}
