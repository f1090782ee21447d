//! Decides which calls of a process ask next for a turn among those of all processes.
//!
//! # Why does not each call ask on arrival?
//!
//! Turns are granted in the order of requests, so a tenant that sends a thousand calls would take those of the next
//! minutes. Here no call gets a turn further away than [`SOON`]. Such calls wait, tenants in turn, and only the first of
//! them asks again. The longer it has been the first, the further away its turn may be, so that calls of other processes
//! that ask more often, or for less, do not overtake it forever.
//!
//! If the first gets a turn, two calls ask at once, then four, up to [`MOST_ASKING`], until one of them gets none: where
//! asking takes long, calls that ask one after another would not use up the rate.

use super::bucket::{Bucket, Demand};
use crate::policy::micros::Micros;
use crate::policy::queue::{FairQueue, Ticket};

/// Calls that wait until they may ask, of type `W`.
#[derive(Debug)]
pub(crate) struct Turns<W> {
    line: FairQueue<(Demand, W)>,
    /// The total demand of the waiting calls.
    waiting: Demand,
    first: Option<First>,
    /// How many calls may ask at once.
    window: usize,
    /// The recent interval between turns while calls waited; and the last turn.
    interval: Micros,
    last: Option<Micros>,
}

/// The first call.
#[derive(Clone, Copy, Debug)]
struct First {
    ticket: Ticket,
    since: Micros,
    /// When it asks next.
    next: Micros,
    /// When its turn would have been at its last request.
    turn: Micros,
    /// Whether it has asked in vain: then no other call asks.
    is_late: bool,
}

/// What a waiting call must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextTurn {
    /// Ask for a turn, at most this far away.
    Ask(Micros),
    /// Return at this time.
    Later(Micros),
    /// Wait for the calls before it.
    Behind,
}

const SECOND: Micros = 1_000_000;
/// How far away the turn of a new first call may be.
pub(crate) const SOON: Micros = SECOND;
/// The first call asks at most and at least this often: other processes do not announce what they give back.
const ASKS: (Micros, Micros) = (SECOND / 200, SECOND);
/// Bounds the window: 640 turns per second if a request takes 100 ms.
const MOST_ASKING: usize = 64;
/// A new interval moves the mean by a quarter.
const GAIN: Micros = 4;

// === impl Turns ===

impl<W> Turns<W> {
    pub(crate) fn new() -> Self {
        Self { line: FairQueue::new(), waiting: Demand::default(), first: None, window: 1, interval: 0, last: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Returns how long a new call would wait, at least: calls elsewhere are unknown, except through the interval between
    /// turns.
    pub(crate) fn wait(&self, tenant: u64, buckets: &[Bucket], now: Micros) -> Micros {
        let (ahead, all) = (self.line.ahead(tenant) as u64, self.line.len().max(1) as u64);
        let ahead_of_it = self.waiting.share(ahead, all);
        let costs = buckets.iter().filter(|bucket| bucket.is_configured()).map(|bucket| bucket.cost(&ahead_of_it));
        self.known_wait(now).saturating_add(costs.max().unwrap_or(0).max(self.interval.saturating_mul(ahead)))
    }

    /// Returns how long the first call waits, as far as known.
    pub(crate) fn known_wait(&self, now: Micros) -> Micros {
        self.first.map_or(0, |first| first.turn.saturating_sub(now))
    }

    /// Adds a call at the end of its tenant's line.
    pub(crate) fn push(&mut self, tenant: u64, demand: Demand, waiter: W) -> Ticket {
        self.waiting = self.waiting.and(demand);
        self.line.push(tenant, (demand, waiter))
    }

    /// Returns the last call of the tenant with the most waiting calls, if those are at least two more than `tenant`'s.
    pub(crate) fn evictable(&self, tenant: u64) -> Option<Ticket> {
        let (last, longest) = self.line.last_of_longest()?;
        (longest > self.line.of(tenant) + 1).then_some(last)
    }

    /// Returns what the call of this ticket must do.
    pub(crate) fn next(&mut self, ticket: Ticket, now: Micros) -> NextTurn {
        let Some(first) = self.look_at_first(now) else { return NextTurn::Behind };
        if first.ticket != ticket {
            return if self.askers().contains(&ticket) { NextTurn::Ask(SOON) } else { NextTurn::Behind };
        }
        if now < first.next { NextTurn::Later(first.next) } else { NextTurn::Ask(first.reach(now)) }
    }

    /// The call of this ticket would get its turn after `wait`, and has taken none.
    pub(crate) fn postpone(&mut self, ticket: Ticket, wait: Micros, now: Micros) {
        self.window = 1;
        if let Some(mut first) = self.look_at_first(now).filter(|first| first.ticket == ticket) {
            // While it waits its turn comes nearer, and its permitted distance grows, at the same rate.
            let apart = wait.saturating_sub(first.reach(now)) / 2;
            (first.next, first.turn) = (now.saturating_add(apart.clamp(ASKS.0, ASKS.1)), now.saturating_add(wait));
            first.is_late = true;
            self.first = Some(first);
        }
    }

    fn look_at_first(&mut self, now: Micros) -> Option<First> {
        let (ticket, _) = self.line.first(|_, _| true)?;
        let turn = self.first.map_or(now, |before| before.turn);
        let new = First { ticket, since: now, next: now, turn, is_late: false };
        self.first = self.first.filter(|first| first.ticket == ticket).or(Some(new));
        self.first
    }

    /// Returns the calls that may ask, or are asking.
    pub(crate) fn askers(&mut self) -> Vec<Ticket> {
        let first = self.line.first(|_, _| true).map(|(first, _)| first);
        let is_late = self.first.is_some_and(|known| known.is_late && Some(known.ticket) == first);
        self.line.first_few(if is_late { 1 } else { self.window })
    }

    /// The call of this ticket gets its turn after `wait`. Returns its waiter.
    pub(crate) fn serve(&mut self, ticket: Ticket, wait: Micros, now: Micros) -> Option<W> {
        let turn = now.saturating_add(wait);
        self.line.serve(ticket);
        self.window = MOST_ASKING.min(self.window + 1);
        if let Some(last) = self.last.replace(turn) {
            let apart = turn.saturating_sub(last);
            self.interval = self.interval - self.interval / GAIN + apart / GAIN;
        }
        if let Some(first) = &mut self.first {
            first.turn = first.turn.max(turn);
        }
        self.remove(ticket)
    }

    /// Removes a call.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<W> {
        let (demand, waiter) = self.line.remove(ticket)?;
        self.waiting = self.waiting.without(demand);
        if self.is_empty() {
            (self.first, self.window, self.interval, self.last) = (None, 1, 0, None);
        }
        Some(waiter)
    }

    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut W> {
        self.line.get_mut(ticket).map(|(_, waiter)| waiter)
    }

    /// See [`FairQueue::set_end`].
    pub(crate) fn set_end(&mut self, ticket: Ticket, end: Micros) {
        self.line.set_end(ticket, end);
    }

    /// See [`FairQueue::ended`].
    pub(crate) fn ended(&mut self, now: Micros, mut look: impl FnMut(&mut W)) -> Option<Micros> {
        self.line.ended(now, |(_, waiter)| look(waiter))
    }

    pub(crate) fn for_each(&mut self, mut look: impl FnMut(&mut W)) {
        self.line.for_each_mut(|(_, waiter)| look(waiter));
    }
}

// === impl First ===

impl First {
    fn reach(&self, now: Micros) -> Micros {
        SOON.saturating_add(now.saturating_sub(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pace::Rate;
    use crate::proto::rate_limit::Unit;

    const MS: Micros = 1_000;
    const REQUEST: Demand = Demand { requests: 1, input: 0, output: 0 };

    fn line(tenants: &[u64]) -> (Turns<()>, Vec<Ticket>) {
        let mut turns = Turns::new();
        let tickets = tenants.iter().map(|tenant| turns.push(*tenant, REQUEST, ())).collect();
        (turns, tickets)
    }

    fn asking(turns: &mut Turns<()>, tickets: &[Ticket]) -> Vec<usize> {
        (0..tickets.len()).filter(|at| matches!(turns.next(tickets[*at], 0), NextTurn::Ask(_))).collect()
    }

    #[test]
    fn the_first_of_each_tenant_asks_in_turn() {
        let (mut turns, tickets) = line(&[1, 1, 1, 2, 2]);
        assert_eq!(asking(&mut turns, &tickets), [0]);
        assert!(turns.serve(tickets[0], 0, 0).is_some());
        assert_eq!(asking(&mut turns, &tickets), [1, 3]);
        assert!(turns.serve(tickets[3], 0, 0).is_some());
        assert!(turns.serve(tickets[1], 0, 0).is_some());
        assert_eq!(asking(&mut turns, &tickets), [2, 4]);
        for ticket in [2, 4] {
            assert!(turns.serve(tickets[ticket], 0, 0).is_some());
        }
        assert!(turns.is_empty());
    }

    #[test]
    fn while_turns_are_granted_more_calls_ask_at_once() {
        let (mut turns, tickets) = line(&[1; 300]);
        let mut served = 0;
        for most in [1, 2, 4, 8, 16, 32, 64, 64] {
            let asking = asking(&mut turns, &tickets);
            assert_eq!(asking, Vec::from_iter(served..served + most));
            for at in asking {
                turns.serve(tickets[at], 0, 0);
            }
            served += most;
        }
        // The rate has no turn for these: only the first asks again, until it gets one.
        for late in [served + 3, served] {
            turns.postpone(tickets[late], 2 * SECOND, 0);
        }
        assert_eq!(turns.next(tickets[served], 0), NextTurn::Later(SECOND / 2));
        turns.serve(tickets[served + 2], 0, 0);
        assert_eq!(turns.askers(), [tickets[served]]);
        turns.postpone(tickets[served + 1], SECOND, 0);
        turns.serve(tickets[served], 0, 0);
        assert_eq!(turns.askers(), [tickets[served + 1], tickets[served + 3]]);
    }

    #[test]
    fn one_that_has_been_the_first_for_long_may_have_a_turn_that_is_further_away() {
        let (mut turns, tickets) = line(&[1]);
        assert_eq!(turns.next(tickets[0], 0), NextTurn::Ask(SOON));
        turns.postpone(tickets[0], 2 * SECOND, 0);
        assert_eq!(turns.next(tickets[0], 0), NextTurn::Later(SECOND / 2));
        // Unless another call takes one, it comes within its reach then.
        assert_eq!(turns.next(tickets[0], SECOND / 2), NextTurn::Ask(SOON + SECOND / 2));
        turns.postpone(tickets[0], 60 * SECOND, SECOND / 2);
        assert_eq!(turns.next(tickets[0], SECOND), NextTurn::Later(3 * SECOND / 2));
        turns.postpone(tickets[0], SOON + SECOND + 1, SECOND);
        assert_eq!(turns.next(tickets[0], SECOND), NextTurn::Later(SECOND + 5 * MS));
    }

    #[test]
    fn a_wait_is_that_of_the_first_and_of_those_between() {
        let rate = [Bucket::new(Unit::Requests, Rate::per_second(10))];
        let (mut turns, tickets) = line(&[1, 1, 1]);
        turns.postpone(tickets[0], 2 * SECOND, 0);
        assert_eq!((turns.wait(1, &rate, 0), turns.wait(2, &rate, SECOND)), (2_300 * MS, 1_100 * MS));
        // Other processes take most of the rate: this one's turns are a second apart.
        let (mut turns, tickets) = line(&[1; 40]);
        for (at, ticket) in (1..).zip(&tickets[..20]) {
            turns.serve(*ticket, 0, at * SECOND);
        }
        assert!((18..=21).contains(&(turns.wait(1, &rate, 20 * SECOND) / SECOND)));
        for ticket in tickets {
            turns.remove(ticket);
        }
        assert_eq!(turns.wait(1, &rate, 20 * SECOND), 0);
    }

    #[test]
    fn the_tenant_of_which_most_wait_makes_room() {
        let (turns, tickets) = line(&[1, 1, 1, 2]);
        assert_eq!(
            (turns.evictable(2), turns.evictable(3), turns.evictable(1)),
            (Some(tickets[2]), Some(tickets[2]), None)
        );
        assert_eq!(turns.len(), 4);
    }
}
