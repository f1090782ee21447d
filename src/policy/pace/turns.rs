//! Which calls of a process ask next for a turn among those of all processes.
//!
//! # Why does not each ask when it comes?
//!
//! Turns are given in the order in which they are asked for, so a tenant that sends a thousand calls would have those of the next
//! minutes. Here a call is given none that is further away than [`SOON`]. Those that would be wait, tenants in turn, and only the
//! first of them asks again: the longer it has been the first, the further away its turn may be, so that calls of other processes
//! that ask more often, or for less, do not pass it by for ever.

use super::bucket::{Bucket, Demand};
use crate::policy::micros::Micros;
use crate::policy::queue::{FairQueue, Ticket};

/// Calls that wait until they may ask, of type `W`.
#[derive(Debug)]
pub(crate) struct Turns<W> {
    line: FairQueue<(Demand, W)>,
    /// What all that wait take.
    waiting: Demand,
    first: Option<First>,
    /// How far apart turns were of late, while calls waited; and the last one.
    interval: Micros,
    last: Option<Micros>,
}

/// The call that asks.
#[derive(Clone, Copy, Debug)]
struct First {
    ticket: Ticket,
    since: Micros,
    /// When it asks next.
    next: Micros,
    /// When its turn would have been when it last asked.
    turn: Micros,
}

/// What a call is to do that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextTurn {
    /// To ask for a turn that is no further away than this.
    Ask(Micros),
    /// To come again at this time.
    Later(Micros),
    /// Others come first.
    Behind,
}

const SECOND: Micros = 1_000_000;
/// How far away the turn of a call may be that has just become the first.
pub(crate) const SOON: Micros = SECOND;
/// The first asks no more often than this, and at least this often: what others give back is not told.
const ASKS: (Micros, Micros) = (SECOND / 200, SECOND);
/// A new interval moves the mean by a quarter.
const GAIN: Micros = 4;

// === impl Turns ===

impl<W> Turns<W> {
    pub(crate) fn new() -> Self {
        Self { line: FairQueue::new(), waiting: Demand::default(), first: None, interval: 0, last: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// How long a call would wait that came now, at least: it is not known what waits elsewhere, but by how far apart turns are.
    pub(crate) fn wait(&self, tenant: u64, buckets: &[Bucket], now: Micros) -> Micros {
        let (ahead, all) = (self.line.ahead(tenant) as u64, self.line.len().max(1) as u64);
        let ahead_of_it = self.waiting.share(ahead, all);
        let costs = buckets.iter().filter(|bucket| bucket.is_configured()).map(|bucket| bucket.cost(&ahead_of_it));
        self.known_wait(now).saturating_add(costs.max().unwrap_or(0).max(self.interval.saturating_mul(ahead)))
    }

    /// How long the first waits, as far as is known.
    pub(crate) fn known_wait(&self, now: Micros) -> Micros {
        self.first.map_or(0, |first| first.turn.saturating_sub(now))
    }

    /// Goes to the end of the line of its tenant.
    pub(crate) fn push(&mut self, tenant: u64, demand: Demand, waiter: W) -> Ticket {
        self.waiting = self.waiting.and(demand);
        self.line.push(tenant, (demand, waiter))
    }

    /// The last of the tenant of which most wait, where those are more than one above those of `tenant`.
    pub(crate) fn evictable(&self, tenant: u64) -> Option<Ticket> {
        let (last, longest) = self.line.last_of_longest()?;
        (longest > self.line.of(tenant) + 1).then_some(last)
    }

    /// What the call of this ticket is to do.
    pub(crate) fn next(&mut self, ticket: Ticket, now: Micros) -> NextTurn {
        if self.line.first(|_, _| true).is_none_or(|(first, _)| first != ticket) {
            return NextTurn::Behind;
        }
        let new = First { ticket, since: now, next: now, turn: self.first.map_or(now, |before| before.turn) };
        let first = self.first.filter(|first| first.ticket == ticket).unwrap_or(new);
        self.first = Some(first);
        if now < first.next { NextTurn::Later(first.next) } else { NextTurn::Ask(first.reach(now)) }
    }

    /// The call of this ticket was told that its turn would come in `wait`, and has taken none.
    pub(crate) fn told(&mut self, ticket: Ticket, wait: Micros, now: Micros) {
        if self.next(ticket, now) != NextTurn::Behind {
            if let Some(first) = &mut self.first {
                // As it waits its turn comes nearer, and may be further away, both by as much.
                let apart = wait.saturating_sub(first.reach(now)) / 2;
                (first.next, first.turn) = (now.saturating_add(apart.clamp(ASKS.0, ASKS.1)), now.saturating_add(wait));
            }
        }
    }

    /// The call of this ticket has its turn in `wait`. Returns what was kept for it.
    pub(crate) fn serve(&mut self, ticket: Ticket, wait: Micros, now: Micros) -> Option<W> {
        let turn = now.saturating_add(wait);
        self.line.serve(ticket);
        if let Some(last) = self.last.replace(turn) {
            let apart = turn.saturating_sub(last);
            self.interval = self.interval - self.interval / GAIN + apart / GAIN;
        }
        if let Some(first) = &mut self.first {
            first.turn = first.turn.max(turn);
        }
        self.remove(ticket)
    }

    /// A call waits no longer.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<W> {
        let (demand, waiter) = self.line.remove(ticket)?;
        self.waiting = self.waiting.without(demand);
        if self.is_empty() {
            (self.first, self.interval, self.last) = (None, 0, None);
        }
        Some(waiter)
    }

    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut W> {
        self.line.get_mut(ticket).map(|(_, waiter)| waiter)
    }

    /// The one that is to ask.
    pub(crate) fn first(&mut self) -> Option<&mut W> {
        let (first, _) = self.line.first(|_, _| true)?;
        self.get_mut(first)
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

    #[test]
    fn the_first_of_each_tenant_asks_in_turn() {
        let (mut turns, tickets) = line(&[1, 1, 2]);
        for next in [0, 2, 1] {
            let may_ask = |turns: &mut Turns<()>, ticket| turns.next(ticket, 0) != NextTurn::Behind;
            let asking: Vec<_> = tickets.iter().filter(|ticket| may_ask(&mut turns, **ticket)).collect();
            assert_eq!(asking, [&tickets[next]]);
            assert!(turns.serve(tickets[next], 0, 0).is_some());
        }
        assert!(turns.is_empty());
    }

    #[test]
    fn one_that_has_been_the_first_for_long_may_have_a_turn_that_is_further_away() {
        let (mut turns, tickets) = line(&[1]);
        assert_eq!(turns.next(tickets[0], 0), NextTurn::Ask(SOON));
        turns.told(tickets[0], 2 * SECOND, 0);
        assert_eq!(turns.next(tickets[0], 0), NextTurn::Later(SECOND / 2));
        // If no other takes one it comes within its reach then.
        assert_eq!(turns.next(tickets[0], SECOND / 2), NextTurn::Ask(SOON + SECOND / 2));
        turns.told(tickets[0], 60 * SECOND, SECOND / 2);
        assert_eq!(turns.next(tickets[0], SECOND), NextTurn::Later(3 * SECOND / 2));
        turns.told(tickets[0], SOON + SECOND + 1, SECOND);
        assert_eq!(turns.next(tickets[0], SECOND), NextTurn::Later(SECOND + 5 * MS));
    }

    #[test]
    fn a_wait_is_that_of_the_first_and_of_those_between() {
        let rate = [Bucket::new(Unit::Requests, Rate::per_second(10))];
        let (mut turns, tickets) = line(&[1, 1, 1]);
        turns.told(tickets[0], 2 * SECOND, 0);
        assert_eq!((turns.wait(1, &rate, 0), turns.wait(2, &rate, SECOND)), (2_300 * MS, 1_100 * MS));
        // Other processes take most of the rate: those of this one are a second apart.
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
