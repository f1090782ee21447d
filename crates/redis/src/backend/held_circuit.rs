//! A circuit in the model.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::model::Lasting;
use super::{NumberedOrder, Process, Token, Votes};

#[derive(Clone, Debug, Default)]
pub(super) struct HeldCircuit {
    pub(super) votes: HashMap<Process, Instant>,
    pub(super) active: HashMap<Process, Instant>,
    pub(super) open: Option<HeldOpen>,
    pub(super) probe: Option<HeldLease>,
    /// An operator's order, with its expiry.
    pub(super) order: Option<(NumberedOrder, Instant)>,
    /// The last orders that were given.
    pub(super) seen: Vec<Token>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct HeldLease {
    pub(super) token: Token,
    pub(super) until: Lasting,
    /// Whether another process has asked for it since.
    pub(super) is_wanted: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct HeldOpen {
    /// When it closes.
    pub(super) until: Lasting,
    /// The probes without an answer, with the expiry of that count.
    pub(super) unanswered: u32,
    pub(super) forgotten: Instant,
}

// === impl HeldCircuit ===

impl HeldCircuit {
    pub(super) fn forget(&mut self, now: Instant) {
        self.open = self.open.filter(|open| open.forgotten > now);
        self.probe = self.probe.filter(|lease| lease.until.at > now);
        if self.order.is_some_and(|(_, until)| until <= now) {
            (self.order, self.seen) = (None, Vec::new());
        }
    }

    /// Drops sets that have expired.
    pub(super) fn expire_sets(&mut self, now: Instant) {
        for set in [&mut self.votes, &mut self.active] {
            if set.values().all(|until| *until <= now) {
                set.clear();
            }
        }
    }

    /// How long it stays open.
    pub(super) fn open_for(&mut self, now: Instant) -> Duration {
        self.open.as_mut().map_or(Duration::ZERO, |open| open.until.left(now))
    }

    /// Drops expired entries, and limits the others to `active` from now, or to the open time.
    pub(super) fn expire(&mut self, now: Instant, open: Duration, active: Duration) {
        retain_until(&mut self.votes, now, now + open.max(active));
        retain_until(&mut self.active, now, now + active);
    }

    pub(super) fn votes(&mut self, now: Instant) -> Votes {
        let open_for = self.open_for(now);
        let count = |processes: usize| u32::try_from(processes).unwrap_or(u32::MAX);
        let voters = self.votes.keys().filter(|process| self.active.contains_key(process));
        Votes { open_for, votes: count(voters.count()), active: count(self.active.len()) }
    }
}

/// Drops expired entries, and limits the others to `latest`.
pub(super) fn retain_until(processes: &mut HashMap<Process, Instant>, now: Instant, latest: Instant) {
    processes.retain(|_, until| *until > now);
    processes.values_mut().for_each(|until| *until = latest.min(*until));
}
