//! Waiting calls: round robin over tenants, first in first out within one.
//!
//! # Why not one queue?
//!
//! In one queue, a tenant that sends a hundred calls makes all others wait for a hundred. Here each tenant has its own
//! queue, and the queues are served in turn: a tenant that sends one call waits for one call of each of the others.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use super::chunks::Chunks;
use crate::policy::micros::Micros;

/// Waiters of type `T`, each of a tenant. Each operation takes constant time, unless noted.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    places: Chunks<LinePlace<T>>,
    /// For each chunk of places, no wait in it ends before this time.
    ends: Vec<Micros>,
    /// The first free place.
    free: u32,
    taken: usize,
    tenants: HashMap<u64, TenantQueue, Hashed>,
    /// Tenants in the order in which they are served. An empty queue stays until it comes first.
    round: VecDeque<u64>,
    waiting: usize,
    /// The serial of the last ticket. It repeats after four billion tickets.
    serial: NonZeroU32,
}

/// Identifies a waiter. The ticket of a removed waiter matches none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    serial: NonZeroU32,
    place: u32,
}

/// As large as a waiting call: the compiler finds room for the tag in its flag.
#[derive(Debug)]
enum LinePlace<T> {
    /// And the next free one.
    Free(u32),
    Taken(WaitingCall<T>),
}

#[derive(Debug)]
struct WaitingCall<T> {
    serial: NonZeroU32,
    tenant: u64,
    waiter: T,
    /// When its wait ends, unless that was noticed; or [`NEVER`].
    end: Micros,
    /// Whether it is in its tenant's queue, and its neighbours there.
    is_waiting: bool,
    before: u32,
    behind: u32,
}

/// The waiters of one tenant.
#[derive(Debug)]
struct TenantQueue {
    first: u32,
    last: u32,
    len: usize,
}

/// No place.
const NONE: u32 = u32::MAX;
const NEVER: Micros = Micros::MAX;

/// For keys that are hashes already.
pub(crate) type Hashed = BuildHasherDefault<KeyHasher>;

#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

// === impl FairQueue ===

impl<T> FairQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            places: Chunks::new(),
            ends: Vec::new(),
            free: NONE,
            taken: 0,
            tenants: HashMap::default(),
            round: VecDeque::new(),
            waiting: 0,
            serial: NonZeroU32::MAX,
        }
    }

    /// The number of waiters.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Adds a waiter at the end of its tenant's queue.
    pub(crate) fn push(&mut self, tenant: u64, waiter: T) -> Ticket {
        let serial = self.serial.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.serial = serial;
        if !self.tenants.contains_key(&tenant) {
            self.drop_all_empty_lines();
            self.round.push_back(tenant);
        }
        let queue = self.tenants.entry(tenant).or_default();
        let before = queue.last;
        let call = WaitingCall { serial, tenant, waiter, end: NEVER, is_waiting: true, before, behind: NONE };
        let place = LinePlace::Taken(call);
        let index = match self.places.get_mut(self.free) {
            Some(free) => {
                let next = if let LinePlace::Free(next) = std::mem::replace(free, place) { next } else { NONE };
                std::mem::replace(&mut self.free, next)
            }
            None => self.places.push(place),
        };
        queue.last = index;
        queue.len += 1;
        if before == NONE {
            queue.first = index;
        }
        if let Some(before) = self.taken_mut(before) {
            before.behind = index;
        }
        self.waiting += 1;
        self.taken += 1;
        Ticket { serial, place: index }
    }

    /// The tenant of the waiter of this ticket.
    pub(crate) fn tenant(&self, ticket: Ticket) -> Option<u64> {
        self.taken(ticket.place).filter(|call| call.serial == ticket.serial).map(|call| call.tenant)
    }

    /// Returns the waiter of this ticket, even if its wait has ended.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.call_mut(ticket).map(|call| &mut call.waiter)
    }

    /// Sets when the wait of this ticket's waiter ends, for [`ended`](Self::ended).
    pub(crate) fn set_end(&mut self, ticket: Ticket, end: Micros) {
        let Some(call) = self.call_mut(ticket) else { return };
        call.end = end;
        let chunk = Chunks::<LinePlace<T>>::chunk_of(ticket.place);
        if self.ends.len() <= chunk {
            self.ends.resize(chunk + 1, NEVER);
        }
        if let Some(earliest) = self.ends.get_mut(chunk) {
            *earliest = end.min(*earliest);
        }
    }

    /// Calls `look` once for each waiter whose wait has ended by `now`. Returns a time before which no other wait ends, if any
    /// does. Looks at one number for every 64 waiters, and at the waiters where that is over.
    pub(crate) fn ended(&mut self, now: Micros, mut look: impl FnMut(&mut T)) -> Option<Micros> {
        if self.is_empty() {
            return None;
        }
        for (earliest, chunk) in self.ends.iter_mut().zip(self.places.chunks_mut()).filter(|(end, _)| **end <= now) {
            *earliest = NEVER;
            for call in chunk.iter_mut().filter_map(LinePlace::call_mut).filter(|call| call.is_waiting) {
                if call.end <= now {
                    call.end = NEVER;
                    look(&mut call.waiter);
                }
                *earliest = call.end.min(*earliest);
            }
        }
        self.ends.iter().copied().min().filter(|earliest| *earliest < NEVER)
    }

    /// Calls `look` for all waiters.
    pub(crate) fn for_each_mut(&mut self, mut look: impl FnMut(&mut T)) {
        let calls = self.places.chunks_mut().flatten().filter_map(LinePlace::call_mut);
        calls.filter(|call| call.is_waiting).for_each(|call| look(&mut call.waiter));
    }

    /// Returns the next waiter and its tenant: the first waiter of the first tenant that may go.
    pub(crate) fn first(&mut self, may_go: impl Fn(&Self, u64) -> bool) -> Option<(Ticket, u64)> {
        self.drop_empty_lines();
        let mut lines = self.round.iter().filter_map(|tenant| Some((*tenant, self.tenants.get(tenant)?.first)));
        let (tenant, place) = lines.find(|(tenant, first)| *first != NONE && may_go(self, *tenant))?;
        Some((self.ticket(place)?, tenant))
    }

    /// Returns the next waiters in the order in which they would be served, at most `most`.
    pub(crate) fn first_few(&self, most: usize) -> Vec<Ticket> {
        let queues = self.round.iter().filter_map(|tenant| self.tenants.get(tenant));
        let mut places: VecDeque<_> =
            queues.map(|queue| queue.first).filter(|first| *first != NONE).take(most).collect();
        let mut few = Vec::new();
        while let Some(place) = places.pop_front().filter(|_| few.len() < most) {
            few.extend(self.ticket(place));
            places.extend(self.taken(place).map(|call| call.behind).filter(|behind| *behind != NONE));
        }
        few
    }

    /// The first waiter of this tenant.
    pub(crate) fn first_of(&self, tenant: u64) -> Option<Ticket> {
        self.ticket(self.tenants.get(&tenant)?.first)
    }

    /// Ends a wait without a place. The waiter stays until it is [removed](Self::remove).
    pub(crate) fn end(&mut self, ticket: Ticket) {
        self.unlink(ticket);
    }

    /// Ends a wait with a place: the tenant goes to the end of the round. The waiter stays until it is
    /// [removed](Self::remove).
    pub(crate) fn serve(&mut self, ticket: Ticket) {
        let Some(tenant) = self.call_mut(ticket).filter(|call| call.is_waiting).map(|call| call.tenant) else { return };
        self.unlink(ticket);
        // It is the first in the usual case.
        if let Some(position) = self.round.iter().position(|other| *other == tenant) {
            self.round.remove(position);
            self.round.push_back(tenant);
        }
    }

    /// Removes a waiter, even if its wait has ended.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        self.unlink(ticket);
        self.call_mut(ticket)?;
        let freed = std::mem::replace(self.places.get_mut(ticket.place)?, LinePlace::Free(self.free));
        self.free = ticket.place;
        self.taken -= 1;
        if self.taken == 0 {
            // Frees the memory of a long queue.
            (self.places, self.ends, self.free) = (Chunks::new(), Vec::new(), NONE);
            self.drop_empty_lines();
        }
        if let LinePlace::Taken(call) = freed { Some(call.waiter) } else { None }
    }

    /// Whether a tenant other than this one waits.
    pub(crate) fn others_wait(&self, tenant: u64) -> bool {
        self.waiting > self.of(tenant)
    }

    /// The number of this tenant's waiters.
    pub(crate) fn of(&self, tenant: u64) -> usize {
        self.tenants.get(&tenant).map_or(0, |queue| queue.len)
    }

    /// Returns the last waiter of the tenant with the most waiters, and their number. Scans all tenants.
    pub(crate) fn last_of_longest(&self) -> Option<(Ticket, usize)> {
        let queue = self.tenants.values().max_by_key(|queue| queue.len)?;
        Some((self.ticket(queue.last)?, queue.len))
    }

    /// Returns how many waiters would be served before a new one.
    pub(crate) fn ahead(&self, tenant: u64) -> usize {
        let own = self.of(tenant);
        let others = self.tenants.iter().filter(|(other, _)| **other != tenant);
        others.map(|(_, queue)| queue.len.min(own + 1)).sum::<usize>() + own
    }

    fn taken(&self, place: u32) -> Option<&WaitingCall<T>> {
        match self.places.get(place)? {
            LinePlace::Taken(call) => Some(call),
            LinePlace::Free(_) => None,
        }
    }

    fn taken_mut(&mut self, place: u32) -> Option<&mut WaitingCall<T>> {
        self.places.get_mut(place).and_then(LinePlace::call_mut)
    }

    fn call_mut(&mut self, ticket: Ticket) -> Option<&mut WaitingCall<T>> {
        self.taken_mut(ticket.place).filter(|call| call.serial == ticket.serial)
    }

    fn ticket(&self, place: u32) -> Option<Ticket> {
        Some(Ticket { serial: self.taken(place)?.serial, place })
    }

    fn unlink(&mut self, ticket: Ticket) {
        let Some(call) = self.call_mut(ticket).filter(|call| call.is_waiting) else { return };
        call.is_waiting = false;
        let (tenant, before, behind) = (call.tenant, call.before, call.behind);
        (call.before, call.behind) = (NONE, NONE);
        if let Some(before) = self.taken_mut(before) {
            before.behind = behind;
        }
        if let Some(behind) = self.taken_mut(behind) {
            behind.before = before;
        }
        if let Some(queue) = self.tenants.get_mut(&tenant) {
            if before == NONE {
                queue.first = behind;
            }
            if behind == NONE {
                queue.last = before;
            }
            queue.len -= 1;
        }
        self.waiting -= 1;
    }

    /// Runs when empty queues outnumber the others, so the cost per operation is small.
    fn drop_all_empty_lines(&mut self) {
        if self.round.len() > 2 * self.waiting + 16 {
            self.tenants.retain(|_, queue| queue.len > 0);
            self.round.retain(|tenant| self.tenants.contains_key(tenant));
        }
    }

    /// Removes empty queues at the head of the round: at most as many as were pushed.
    fn drop_empty_lines(&mut self) {
        while let Some(tenant) = self.round.front().copied() {
            if self.tenants.get(&tenant).is_some_and(|queue| queue.len > 0) {
                break;
            }
            self.tenants.remove(&tenant);
            self.round.pop_front();
        }
    }
}

// === impl LinePlace ===

impl<T> LinePlace<T> {
    fn call_mut(&mut self) -> Option<&mut WaitingCall<T>> {
        match self {
            Self::Taken(call) => Some(call),
            Self::Free(_) => None,
        }
    }
}

// === impl TenantQueue ===

impl Default for TenantQueue {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

// === impl KeyHasher ===

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_tenant<T>(_: &FairQueue<T>, _: u64) -> bool {
        true
    }

    fn served(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| {
            let (ticket, _) = queue.first(any_tenant)?;
            queue.serve(ticket);
            queue.remove(ticket)
        })
        .collect()
    }

    #[test]
    fn one_call_of_each_tenant_in_turn() {
        let mut queue = FairQueue::new();
        for waiter in ["a1", "a2", "a3"] {
            queue.push(1, waiter);
        }
        queue.push(2, "b1");
        assert_eq!((queue.ahead(1), queue.ahead(2), queue.ahead(3)), (4, 3, 2));
        queue.push(3, "c1");
        queue.push(2, "b2");
        assert_eq!(served(&mut queue), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_first_few_are_those_that_are_served_next() {
        let mut queue = FairQueue::new();
        for (tenant, name) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (3, "c2"), (1, "a4")] {
            queue.push(tenant, name);
        }
        let gone = queue.push(4, "gone");
        queue.remove(gone);
        for most in [0, 2, 6, 100] {
            let few = queue.first_few(most);
            let names: Vec<_> = few.into_iter().filter_map(|ticket| queue.get_mut(ticket).copied()).collect();
            let all = ["a1", "b1", "c1", "a2", "c2", "a3", "a4"];
            assert_eq!(names, all[..all.len().min(most)]);
        }
        assert_eq!(served(&mut queue), ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]);
    }

    #[test]
    fn a_waiter_that_leaves_is_not_served_and_holds_up_no_other() {
        let mut queue = FairQueue::new();
        let tickets = ["a1", "a2", "a3"].map(|waiter| queue.push(1, waiter));
        let other = queue.push(2, "b1");
        assert_eq!(queue.remove(tickets[1]), Some("a2"));
        assert_eq!(queue.remove(tickets[1]), None);
        assert_eq!(queue.remove(other), Some("b1"));
        // The place of the one that left is another's now, and its ticket is not.
        let new = queue.push(1, "a4");
        assert_eq!(queue.remove(tickets[1]), None);
        assert_eq!(served(&mut queue), ["a1", "a3", "a4"]);
        assert_eq!(queue.remove(new), None);
    }

    #[test]
    fn a_wait_that_has_ended_is_seen_once() {
        let mut queue = FairQueue::new();
        let tickets: Vec<_> = (0..200).map(|number| queue.push(number % 3, number)).collect();
        assert_eq!(queue.ended(Micros::MAX, |_| panic!("none has an end")), None);
        let ended = |queue: &mut FairQueue<u64>, now| {
            let mut seen = Vec::new();
            let next = queue.ended(now, |number| seen.push(*number));
            (seen, next)
        };
        for (ticket, end) in [(150, 30), (1, 20), (2, 10), (199, 20)] {
            queue.set_end(tickets[ticket], end);
        }
        assert_eq!(ended(&mut queue, 9), (vec![], Some(10)));
        assert_eq!(ended(&mut queue, 10), (vec![2], Some(20)));
        // Its wait was extended; another has ended otherwise.
        queue.set_end(tickets[2], 25);
        queue.end(tickets[1]);
        assert_eq!(ended(&mut queue, 20), (vec![199], Some(25)));
        queue.remove(tickets[2]);
        assert_eq!(ended(&mut queue, 29), (vec![], Some(30)));
        assert_eq!(ended(&mut queue, 30), (vec![150], None));
        // The place of one that has left is another's, which has no end yet.
        queue.set_end(tickets[3], 40);
        queue.remove(tickets[3]);
        let new = queue.push(7, 200);
        assert_eq!(ended(&mut queue, 40), (vec![], None));
        queue.set_end(new, 50);
        for ticket in tickets {
            queue.remove(ticket);
        }
        assert_eq!(ended(&mut queue, 49), (vec![], Some(50)));
        queue.end(new);
        assert_eq!(ended(&mut queue, 50), (vec![], None), "no call waits");
    }

    #[test]
    fn a_tenant_that_may_not_go_is_passed_over() {
        let mut queue = FairQueue::new();
        queue.push(1, "a1");
        queue.push(2, "b1");
        let (ticket, tenant) = queue.first(|_, tenant| tenant != 1).unwrap();
        assert_eq!(tenant, 2);
        assert_eq!(queue.get_mut(ticket), Some(&mut "b1"));
        queue.serve(ticket);
        assert_eq!(queue.first(|_, tenant| tenant != 1), None);
        // Served, and not gone yet.
        assert_eq!((queue.len(), queue.remove(ticket)), (1, Some("b1")));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Serve,
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step =
            prop_oneof![(0..5_u64).prop_map(Step::Push), Just(Step::Serve), any::<usize>().prop_map(Step::Remove),];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// The same as a list of lists.
        #[test]
        fn it_is_round_robin(steps in steps()) {
            let mut queue = FairQueue::new();
            let mut model: VecDeque<(u64, VecDeque<u32>)> = VecDeque::new();
            let mut tickets: Vec<(Ticket, u64, u32)> = Vec::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Push(tenant) => {
                        tickets.push((queue.push(tenant, number), tenant, number));
                        match model.iter_mut().find(|(other, _)| *other == tenant) {
                            Some((_, waiters)) => waiters.push_back(number),
                            None => model.push_back((tenant, VecDeque::from([number]))),
                        }
                    }
                    Step::Serve => {
                        let first = queue.first(any_tenant);
                        while model.front().is_some_and(|(_, waiters)| waiters.is_empty()) {
                            model.pop_front();
                        }
                        prop_assert_eq!(first.is_some(), !model.is_empty());
                        if let (Some((ticket, _)), Some((tenant, mut waiters))) = (first, model.pop_front()) {
                            queue.serve(ticket);
                            prop_assert_eq!(queue.remove(ticket), waiters.pop_front());
                            model.push_back((tenant, waiters));
                            tickets.retain(|(other, _, _)| *other != ticket);
                        }
                    }
                    Step::Remove(which) if !tickets.is_empty() => {
                        let (ticket, tenant, number) = tickets.swap_remove(which % tickets.len());
                        prop_assert_eq!(queue.remove(ticket), Some(number));
                        let (_, waiters) = model.iter_mut().find(|(other, _)| *other == tenant).unwrap();
                        waiters.retain(|other| *other != number);
                    }
                    Step::Remove(_) => {}
                }
                if tickets.is_empty() {
                    model.clear();
                }
                prop_assert_eq!(queue.len(), tickets.len());
                prop_assert_eq!(queue.len(), model.iter().map(|(_, waiters)| waiters.len()).sum::<usize>());
            }
        }
    }

    #[test]
    fn a_key_that_is_a_hash_is_its_own_hash() {
        let mut hasher = KeyHasher::default();
        hasher.write_u64(7);
        assert_eq!(hasher.finish(), 7);
        hasher.write_u64(0);
        hasher.write(&[1, 2]);
        assert_eq!(hasher.finish(), 0x0102);
    }
}
