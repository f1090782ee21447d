//! What the model holds of a circuit.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{NumberedOrder, Process, Token, Votes};

#[derive(Clone, Debug, Default)]
pub(super) struct HeldCircuit {
    pub(super) votes: HashMap<Process, Instant>,
    pub(super) active: HashMap<Process, Instant>,
    /// Until when it is open, how many probes got no answer, and when that is forgotten.
    pub(super) open: Option<Open>,
    pub(super) probe: Option<(Token, Instant)>,
    /// An operator's order, and until when it is kept.
    pub(super) order: Option<(NumberedOrder, Instant)>,
    /// The orders that were told last.
    pub(super) told: Vec<Token>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) until: Instant,
    pub(super) unanswered: u32,
    pub(super) forgotten: Instant,
}

// === impl HeldCircuit ===

impl HeldCircuit {
    pub(super) fn forget(&mut self, now: Instant) {
        self.votes.retain(|_, until| *until > now);
        self.active.retain(|_, until| *until > now);
        self.open = self.open.filter(|open| open.forgotten > now);
        self.probe = self.probe.filter(|(_, until)| *until > now);
        if self.order.is_some_and(|(_, until)| until <= now) {
            (self.order, self.told) = (None, Vec::new());
        }
    }

    pub(super) fn votes(&self, now: Instant) -> Votes {
        let count = |voices: &HashMap<Process, Instant>| u32::try_from(voices.len()).unwrap_or(u32::MAX);
        let open_for = self.open.map_or(Duration::ZERO, |open| open.until.saturating_duration_since(now));
        Votes { open_for, votes: count(&self.votes), active: count(&self.active) }
    }
}
