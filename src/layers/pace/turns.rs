//! The calls of this process that wait until the fleet has turns for them soon.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::key::{Limit, MOST};
use super::turn_line::TurnWaiter;
use crate::policy::micros::{Micros, micros};
use crate::policy::pace::{Demand, NextTurn, Turns};
use crate::policy::queue::Ticket;
use crate::rt::alarm::AlarmedCalls;
use crate::rt::sync::{MutexGuard, lock};

/// What a call that waits for its turn must do.
#[derive(Debug)]
pub(super) enum TurnWait {
    /// Ask for a turn, at most this far away.
    Ask(Duration),
    /// Wait until this time, or until it is woken.
    Wait(Option<Instant>),
    /// Start without a turn: the other processes are unreachable.
    Alone { processes: u32 },
    /// Give up: its turn would come after at least this time.
    TooLong(Duration),
}

impl Limit {
    pub(super) fn waiting_for_turns(&self) -> usize {
        lock(&self.turns().0).len()
    }

    /// Queues a call that is new, or whose turn would come after `after`. `Err`: it would wait longer than it can, or
    /// there is no room for it.
    pub(super) fn wait_for_turn(
        &self,
        (tenant, demand): (u64, Demand),
        after: Duration,
        now: Instant,
        end: Micros,
    ) -> Result<Ticket, Duration> {
        let at = self.micros(now);
        let mut turns = lock(&self.turns().0);
        let wait = self.turn_wait(&turns, tenant, now).max(after);
        if is_too_long(wait, at, end) {
            return Err(wait);
        }
        let mut evicted = None;
        if turns.len() >= MOST {
            let Some(last) = turns.evictable(tenant) else { return Err(wait) };
            evicted = turns.remove(last).and_then(|waiter| waiter.waker);
        }
        let ticket = turns.push(tenant, demand, TurnWaiter { waker: None, alone: None });
        if !after.is_zero() {
            turns.postpone(ticket, micros(after), at);
        }
        drop(turns);
        // It finds out that it has been evicted.
        evicted.into_iter().for_each(Waker::wake);
        Ok(ticket)
    }

    /// Returns what a waiting call must do; `waker` is woken when that may have changed, or at `end`, where an alarm is set.
    pub(super) fn next_turn(&self, ticket: Ticket, waker: &Waker, now: Instant, end: Micros) -> TurnWait {
        let at = self.micros(now);
        let mut turns = lock(&self.turns().0);
        let next = turns.next(ticket, at);
        let known = turns.known_wait(at);
        let Some(waiter) = turns.get_mut(ticket) else { return TurnWait::TooLong(Duration::ZERO) };
        if let Some(processes) = waiter.alone {
            return TurnWait::Alone { processes };
        }
        if let NextTurn::Ask(reach) = next {
            return TurnWait::Ask(Duration::from_micros(reach));
        }
        match &mut waiter.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        turns.set_end(ticket, end);
        let known = Duration::from_micros(known);
        match next {
            // Calls after the first get a later turn.
            _ if is_too_long(known, at, end) => TurnWait::TooLong(known),
            NextTurn::Later(next) => TurnWait::Wait(now.checked_add(Duration::from_micros(next.saturating_sub(at)))),
            _ => TurnWait::Wait(None),
        }
    }

    /// The call's turn would come after this time. Calls that cannot wait that long are woken.
    pub(super) fn postpone_turn(&self, ticket: Ticket, wait: Duration, now: Instant) {
        let mut late = Vec::new();
        let (at, wait) = (self.micros(now), micros(wait));
        let mut turns = lock(&self.turns().0);
        turns.postpone(ticket, wait, at);
        turns.ended(at.saturating_add(wait).saturating_sub(1), |waiter| late.extend(waiter.waker.take()));
        drop(turns);
        late.into_iter().for_each(Waker::wake);
    }

    /// The call has its turn, after this time: the next ones ask.
    pub(super) fn serve_turn(&self, ticket: Ticket, wait: Duration, now: Instant) {
        let mut turns = lock(&self.turns().0);
        turns.serve(ticket, micros(wait), self.micros(now));
        self.wake_askers(turns);
    }

    /// Removes a waiting call.
    pub(super) fn leave_turns(&self, ticket: Ticket) {
        let mut turns = lock(&self.turns().0);
        turns.remove(ticket);
        self.wake_askers(turns);
    }

    /// The other processes are unreachable: no call waits for them.
    pub(super) fn release_turns(&self, processes: u32) {
        let mut woken = Vec::new();
        lock(&self.turns().0).for_each(|waiter| {
            waiter.alone = Some(processes);
            woken.extend(waiter.waker.clone());
        });
        woken.into_iter().for_each(Waker::wake);
    }

    /// Returns how long a new call would wait for its turn.
    pub(super) fn expected_turn(&self, tenant: u64, now: Instant) -> Duration {
        self.turn_wait(&lock(&self.turns().0), tenant, now)
    }

    fn turn_wait(&self, turns: &Turns<TurnWaiter>, tenant: u64, now: Instant) -> Duration {
        Duration::from_micros(self.with_buckets(now, |buckets, at, _| turns.wait(tenant, buckets, at)))
    }

    /// A call has left. Wakes the calls that may ask, and are not asking.
    fn wake_askers(&self, mut turns: MutexGuard<'_, Turns<TurnWaiter>>) {
        let askers = turns.askers();
        let wakers: Vec<_> = askers.into_iter().filter_map(|ticket| turns.get_mut(ticket)?.waker.take()).collect();
        let is_empty = turns.is_empty();
        drop(turns);
        wakers.into_iter().for_each(Waker::wake);
        if is_empty {
            self.alarms().end();
        }
    }
}

fn is_too_long(wait: Duration, at: Micros, end: Micros) -> bool {
    at.saturating_add(micros(wait)) > end
}
