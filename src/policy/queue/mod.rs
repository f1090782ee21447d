//! Decides which waiting call is served next, and how many calls are in flight.
//!
//! # Why is no call overtaken?
//!
//! A call that arrives while others wait joins the queue, even if a place has just become free: that place is for the
//! next waiter. Otherwise, under load, a new call is always faster than a waiter that must be woken, and some wait
//! forever.

mod adaptive;
mod chunks;
mod fair_queue;

use std::collections::HashMap;

pub(crate) use self::adaptive::Adaptive;
pub(crate) use self::fair_queue::Hashed;
pub(crate) use self::fair_queue::{FairQueue, Ticket};
use super::micros::Micros;

/// Places for calls in flight, and waiters for a place, of type `W`.
#[derive(Debug)]
pub(crate) struct Places<W> {
    limit: ConcurrencyLimit,
    max_queue: usize,
    queue: FairQueue<W>,
    /// The number of places that each tenant holds.
    held: HashMap<u64, u32, Hashed>,
    in_use: u32,
    /// Places that do not count, since their holders do not read their answers or send their requests.
    passed_over: u32,
    /// The mean time that a place is held; zero before the first one was returned.
    hold: Micros,
}

#[derive(Debug)]
pub(crate) enum ConcurrencyLimit {
    Fixed(u32),
    Adaptive(Adaptive),
}

/// A place for one call. Return it with [`Places::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaceGrant {
    pub(crate) tenant: u64,
    /// Of an adaptive limit, whose losses count once per round.
    pub(crate) round: u32,
}

/// What a call shows about the upstream's capacity.
// A byte would be copied with its neighbours, piece by piece.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Served,
    Lost,
    Unknown,
}

/// The result for a call without a free place.
#[derive(Debug)]
pub(crate) enum EnqueueResult<W> {
    Waits(Ticket),
    /// It waits, and this waiter, the last of the tenant with the most waiters, is evicted.
    InPlaceOf {
        evicted: Ticket,
        ticket: Ticket,
    },
    Full(W),
}

/// A new hold time moves the mean by an eighth, as in TCP's round-trip estimate.
const GAIN: u64 = 8;

// === impl Places ===

impl<W> Places<W> {
    pub(crate) fn new(limit: ConcurrencyLimit, max_queue: usize) -> Self {
        Self { limit, max_queue, queue: FairQueue::new(), held: HashMap::default(), in_use: 0, passed_over: 0, hold: 0 }
    }

    /// Takes a place at once, if one is free and no call waits for it, or if it is kept for tenants like this one.
    pub(crate) fn enter(&mut self, tenant: u64) -> Option<PlaceGrant> {
        let is_theirs = self.queue.is_empty() || self.is_kept() && !has_share(&self.held, tenant, self.limit());
        (is_theirs && self.has_room()).then(|| self.take(tenant))
    }

    /// Counts a place that a call took without asking, while there was room.
    pub(crate) fn count(&mut self, tenant: u64) {
        self.take(tenant);
    }

    /// Whether a call waits, or all places are held by calls that count.
    pub(crate) fn is_full(&self) -> bool {
        !self.queue.is_empty() || !self.has_room()
    }

    /// Returns the expected wait of a new call; `None` if no hold time is known yet.
    pub(crate) fn expected_wait(&self, tenant: u64) -> Option<Micros> {
        let ahead = u64::try_from(self.queue.ahead(tenant)).unwrap_or(u64::MAX).saturating_add(1);
        (self.hold > 0).then(|| self.hold.saturating_mul(ahead) / u64::from(self.limit().max(1)))
    }

    /// Adds a waiter. In a full queue, the tenant with the most waiters makes room for a tenant with fewer.
    pub(crate) fn wait(&mut self, tenant: u64, waiter: W) -> EnqueueResult<W> {
        if self.queue.len() < self.max_queue {
            return EnqueueResult::Waits(self.queue.push(tenant, waiter));
        }
        match self.queue.last_of_longest() {
            Some((evicted, longest)) if longest > self.queue.of(tenant) + 1 => {
                self.queue.end(evicted);
                EnqueueResult::InPlaceOf { evicted, ticket: self.queue.push(tenant, waiter) }
            }
            _ => EnqueueResult::Full(waiter),
        }
    }

    /// Gives a free place to the next waiter. Call it until it returns `None`, after a place was returned and after a
    /// waiter has left.
    pub(crate) fn next(&mut self) -> Option<(Ticket, PlaceGrant)> {
        if self.queue.is_empty() || !self.has_room() {
            return None;
        }
        let (limit, is_kept) = (self.limit(), self.is_kept());
        let (queue, held) = (&mut self.queue, &self.held);
        let may_go =
            |queue: &FairQueue<W>, tenant| !has_share(held, tenant, limit) || (!is_kept && !queue.others_wait(tenant));
        let first = queue.first(may_go);
        let (ticket, tenant) = match first {
            None if is_kept => return None,
            // Places that were passed over: all tenants have their share.
            None => queue.first(|_, _| true)?,
            Some(first) => first,
        };
        self.queue.serve(ticket);
        Some((ticket, self.take(tenant)))
    }

    /// Half of the places beyond the limit are for tenants below their share: otherwise a tenant that does not read its
    /// answers would take all of them, and get as many again.
    fn is_kept(&self) -> bool {
        self.in_use >= self.limit().saturating_add(self.limit().div_ceil(2))
    }

    /// Returns the waiter of this ticket, until it is [removed](Self::forget).
    pub(crate) fn waiter(&mut self, ticket: Ticket) -> Option<&mut W> {
        self.queue.get_mut(ticket)
    }

    /// See [`FairQueue::set_end`].
    pub(crate) fn set_end(&mut self, ticket: Ticket, end: Micros) {
        self.queue.set_end(ticket, end);
    }

    /// See [`FairQueue::ended`].
    pub(crate) fn ended(&mut self, now: Micros, look: impl FnMut(&mut W)) -> Option<Micros> {
        self.queue.ended(now, look)
    }

    /// Removes a waiter: with its grant, or because its caller left.
    pub(crate) fn forget(&mut self, ticket: Ticket) -> Option<W> {
        self.queue.remove(ticket)
    }

    /// Returns a place; `hold`: how long it was held, if measured.
    pub(crate) fn leave(&mut self, grant: PlaceGrant, load: Load, hold: Option<Micros>) {
        if let ConcurrencyLimit::Adaptive(limit) = &mut self.limit {
            match load {
                Load::Served => limit.served(self.in_use),
                Load::Lost => limit.lost(grant.round),
                Load::Unknown => {}
            }
        }
        if let Some(held) = self.held.get_mut(&grant.tenant) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&grant.tenant);
            }
        }
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(hold) = hold {
            self.held_for(hold);
        }
    }

    /// Notes how long a place was held.
    pub(crate) fn held_for(&mut self, hold: Micros) {
        self.hold = match self.hold {
            0 => hold.max(1),
            mean if hold >= mean => mean + (hold - mean) / GAIN,
            mean => mean - (mean - hold) / GAIN,
        };
    }

    /// `unread` holders have not read their answers for a while. Half of the places remain theirs; further ones do not
    /// count, up to twice the limit in flight, and above 1.5 times the limit only for tenants that hold less than half of
    /// the places. `uploading` holders have been sending their requests for as long: their places do not count either.
    pub(crate) fn pass_over(&mut self, unread: u32, uploading: u32) {
        let unread = unread.saturating_sub(self.limit() / 2);
        self.passed_over = unread.saturating_add(uploading).min(self.limit());
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.limit()
    }

    /// From now on there are as many places.
    pub(crate) fn set_limit(&mut self, places: u32) {
        self.limit = ConcurrencyLimit::Fixed(places);
    }

    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u32 {
        self.in_use
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn has_room(&self) -> bool {
        self.in_use.saturating_sub(self.passed_over) < self.limit()
    }

    fn take(&mut self, tenant: u64) -> PlaceGrant {
        self.in_use += 1;
        *self.held.entry(tenant).or_default() += 1;
        let round = match &self.limit {
            ConcurrencyLimit::Fixed(_) => 0,
            ConcurrencyLimit::Adaptive(limit) => limit.round(),
        };
        PlaceGrant { tenant, round }
    }
}

/// Whether a tenant holds half of the places.
fn has_share(held: &HashMap<u64, u32, Hashed>, tenant: u64, limit: u32) -> bool {
    held.get(&tenant).is_some_and(|held| *held >= limit.div_ceil(2))
}

// === impl ConcurrencyLimit ===

impl ConcurrencyLimit {
    pub(crate) fn limit(&self) -> u32 {
        match self {
            Self::Fixed(limit) => *limit,
            Self::Adaptive(limit) => limit.limit(),
        }
    }
}

#[cfg(test)]
mod tests;
