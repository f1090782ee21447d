//! One circuit of this process, as its driver sees it.

use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::{CircuitChange, CircuitOrder, CircuitReason, CircuitState, PeerCircuit, PeerReport, ProbeHold};

use super::owed::{Owed, Told};
use crate::backend::{BackendError, GivenOrder, HeldOrder, NumberedOrder, OrderNews, ProbeVerdict, Token, Votes};

pub(super) struct Watched {
    pub(super) circuit: PeerCircuit,
    pub(super) probe: Probe,
    /// When the fleet is asked next what it says of the circuit.
    pub(super) look_at: Instant,
    /// Redis did not take the vote of this process: the fleet does not know yet what it found.
    pub(super) owes_vote: bool,
    /// Redis did not take what came of the probe under this lease. Until it does, no other process may probe.
    pub(super) owes_verdict: Option<(Token, ProbeVerdict)>,
    /// When it last opened, and how often it had opened by then, as far as the layer has told this task.
    pub(super) opened: Option<(Instant, u64)>,
    /// The operator's order that it obeys.
    pub(super) order: Option<NumberedOrder>,
    /// When the operator gave it, by the clock of this process; `None`: only the clock of the engine tells, and that may have
    /// jumped.
    pub(super) order_given: Option<Instant>,
    /// One that an operator gave in this process, and that the fleet does not know yet.
    pub(super) owes_order: Option<GivenOrder>,
}

/// Who tests the upstream.
pub(super) enum Probe {
    /// The circuit is not open, or goes on by itself.
    None,
    /// No process yet: this one asks for the lease at `ask_at`.
    Held {
        _hold: ProbeHold,
        ask_at: Instant,
        /// The last time this process had no call to probe with. It asks again once it has refused more calls than this.
        refused: Option<u64>,
    },
    /// This process, under this lease. Where no call has come by `give_back_at`, it gives the lease back.
    Ours {
        lease: Token,
        /// Redis granted it. Otherwise the reply was lost, and the circuit goes on as without a fleet.
        is_sure: bool,
        give_back_at: Option<Instant>,
    },
}

/// What a change of state here means to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The upstream fails, and calls are refused for so long.
    Opened(Duration),
    /// The circuit opened because the others say so.
    Followed(Duration),
    /// A call tests the upstream.
    Probes,
    /// It is well.
    Closed,
    /// Set by hand. What is for the whole fleet is told by itself.
    Ours,
}

/// Of two orders that were given within this time, that with the higher number counts: news of one may be on their way for as
/// long, so that it seems to have been given that much later than it was.
const ORDERS_APART: Duration = Duration::from_secs(1);

/// How often this process tells a verdict again that Redis did not take.
pub(super) const LOOK_OWED: Duration = Duration::from_millis(500);

/// How often this process asks for what it may have missed of a circuit that is closed, and of one that is not.
pub(super) const LOOK_CLOSED: Duration = Duration::from_secs(20);
pub(super) const LOOK_OPEN: Duration = Duration::from_secs(5);

// === impl Watched ===

impl Watched {
    /// Holds probes back, and asks Redis for their lease after `open_for`.
    pub(super) fn hold(&mut self, open_for: Duration) {
        self.hold_until(open_for, None);
    }

    /// This process had no call to probe with: it asks for the lease again once it has one.
    pub(super) fn hold_until_called(&mut self, at_least: Duration) {
        let refused = self.refused();
        self.hold_until(at_least, Some(refused));
    }

    fn hold_until(&mut self, wait: Duration, refused: Option<u64>) {
        // The hold that is there ends first. Ended later, it would end the new one with it.
        self.probe = Probe::None;
        self.probe = Probe::Held { _hold: self.circuit.hold_probes(), ask_at: Instant::now() + wait, refused };
    }

    /// How many calls were refused.
    pub(super) fn refused(&self) -> u64 {
        self.circuit.handle().map_or(0, |handle| handle.snapshot().refused)
    }

    pub(super) fn hear(&mut self, votes: Votes) {
        self.circuit.hear(PeerReport::new(votes.votes, votes.active, votes.open_for));
        let here = self.circuit.handle().and_then(|handle| handle.snapshot().open_for);
        self.ask_in(jittered(votes.open_for.min(here.unwrap_or(votes.open_for))));
    }

    pub(super) fn ask_in(&mut self, wait: Duration) {
        if let Probe::Held { ask_at, .. } = &mut self.probe {
            *ask_at = Instant::now() + wait;
        }
    }

    pub(super) fn lease(&self) -> Option<Token> {
        match self.probe {
            Probe::Ours { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The lease that this process gave back without a reply, since it may have it still; else a new one.
    pub(super) fn lease_to_ask_for(&mut self) -> Token {
        match self.owes_verdict {
            Some((lease, ProbeVerdict::GivenBack)) => {
                self.owes_verdict = None;
                lease
            }
            _ => Token::random(),
        }
    }

    pub(super) fn ask_now(&mut self) {
        if let (Probe::Held { ask_at, .. }, Some(handle)) = (&mut self.probe, self.circuit.handle()) {
            let left = handle.snapshot().open_for.unwrap_or_default();
            *ask_at = (*ask_at).min(Instant::now() + left);
        }
    }

    /// When something is to be done next.
    pub(super) fn due(&self) -> Instant {
        let probe = match &self.probe {
            Probe::None => None,
            Probe::Held { ask_at, .. } => Some(*ask_at),
            Probe::Ours { give_back_at, .. } => *give_back_at,
        };
        probe.map_or(self.look_at, |probe| probe.min(self.look_at))
    }

    /// Obeys an order of the fleet that is later than the last one, and was given `age` ago. Returns whether it is.
    pub(super) fn obey(&mut self, order: NumberedOrder, age: Duration) -> bool {
        let is_later = self.order.is_none_or(|last| last.number < order.number);
        if is_later {
            (self.order, self.order_given) = (Some(order), None);
            if !self.is_outdated(order.order, age) {
                self.circuit.obey(order.order);
            }
        }
        is_later
    }

    /// Hears of an order that another process told Redis. It may have been given before the one that is obeyed here and have
    /// the higher number all the same, because the clock of the engine jumped before its process could tell it. Then the one
    /// that is obeyed is told again, with a number above it.
    pub(super) fn hear_order(&mut self, news: &OrderNews) {
        let OrderNews { order, age, is_again, .. } = *news;
        let given = (!is_again).then(|| Instant::now().checked_sub(age)).flatten();
        if let (Some(given), Some(obeyed), Some(obeyed_given)) = (given, &mut self.order, self.order_given)
            && obeyed.number < order.number
            && given + ORDERS_APART < obeyed_given
        {
            obeyed.number = order.number.saturating_add(1);
            self.look_at = Instant::now();
            return;
        }
        self.obey(order, age);
        if self.order == Some(order) {
            self.order_given = given.or(self.order_given);
        }
    }

    /// Whether the order is a `Close` that comes too late: the circuit has opened since an operator gave it.
    fn is_outdated(&self, order: CircuitOrder, age: Duration) -> bool {
        let Some(handle) = self.circuit.handle().filter(|_| order == CircuitOrder::Close) else { return false };
        let snapshot = handle.snapshot();
        let is_open = matches!(snapshot.state, CircuitState::Open | CircuitState::HalfOpen);
        // An opening that the layer has not told this task of yet is newer than the order.
        let opened_before = self.opened.is_some_and(|(at, times)| times == snapshot.opened && at.elapsed() >= age);
        is_open && !opened_before
    }

    /// What is to be told to the fleet, if anything is.
    pub(super) fn owed(&mut self) -> Option<Owed> {
        let open_for = || self.circuit.handle()?.snapshot().open_for;
        let vote = if self.owes_vote { open_for().filter(|left| !left.is_zero()) } else { None };
        // A vote that Redis did not take while it held is of no use to anybody.
        self.owes_vote = vote.is_some();
        let renewed = if self.is_probing() { self.lease() } else { None };
        let owed = Owed { renewed, verdict: self.owes_verdict, vote, order: self.owes_order };
        let is_any = renewed.is_some() || owed.verdict.is_some() || owed.vote.is_some() || owed.order.is_some();
        is_any.then_some(owed)
    }

    /// Redis was told what was [owed](Self::owed), and took it or did not.
    pub(super) fn reported(&mut self, told: Told) {
        let Told { verdict, vote, order } = told;
        if let Some((lease, verdict, taken)) = verdict {
            self.verdict_reported(lease, verdict, &taken);
        }
        if let Some(taken) = vote {
            self.owes_vote = taken.is_err();
        }
        match order {
            Some(Ok(HeldOrder { order, age })) => {
                self.owes_order = None;
                self.obey(order, age);
            }
            Some(Err(_)) => self.look_at = self.look_at.min(Instant::now() + LOOK_OPEN),
            None => {}
        }
    }

    /// Redis was told what came of a probe. Returns whether it knows, and whether that counts.
    pub(super) fn verdict_reported(
        &mut self,
        lease: Token,
        verdict: ProbeVerdict,
        taken: &Result<bool, BackendError>,
    ) -> bool {
        match taken {
            // The lease has ended, with this or before it.
            Ok(counts) => {
                self.owes_verdict = None;
                *counts
            }
            Err(_) => {
                self.owe_verdict(lease, verdict);
                false
            }
        }
    }

    /// Redis did not take what came of a probe. It is told again soon: a failure as a vote, so that only its lease is to be
    /// given back then.
    fn owe_verdict(&mut self, lease: Token, verdict: ProbeVerdict) {
        let owed = if verdict == ProbeVerdict::Well { ProbeVerdict::Well } else { ProbeVerdict::GivenBack };
        self.owes_verdict = Some((lease, owed));
        self.look_at = self.look_at.min(Instant::now() + LOOK_OWED);
    }

    /// The circuit has opened.
    pub(super) fn note_opened(&mut self) {
        let times = self.circuit.handle().map_or(0, |handle| handle.snapshot().opened);
        self.opened = Some((Instant::now(), times));
    }

    /// Whether a call of this process tests the upstream.
    pub(super) fn is_probing(&self) -> bool {
        self.circuit.handle().is_some_and(|handle| handle.snapshot().probes > 0)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.circuit.handle().is_none_or(|handle| handle.state() == CircuitState::Closed)
    }
}

// === impl Meaning ===

impl Meaning {
    pub(super) fn of(change: &CircuitChange) -> Self {
        let open_for = change.open_for.unwrap_or_default();
        match (change.to, change.reason) {
            (_, CircuitReason::Manual) => Self::Ours,
            (CircuitState::Open, CircuitReason::Peers) => Self::Followed(open_for),
            (CircuitState::Open, _) => Self::Opened(open_for),
            (CircuitState::HalfOpen, _) => Self::Probes,
            (CircuitState::Closed, _) => Self::Closed,
            _ => Self::Ours,
        }
    }
}

/// A little more, so that a fleet does not ask as one.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() * 0.1)
}
