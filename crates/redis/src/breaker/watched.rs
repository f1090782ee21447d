//! One circuit of this process, as its driver sees it.

use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::{CircuitChange, CircuitOrder, CircuitReason, CircuitState, PeerCircuit, PeerReport, ProbeHold};

use super::owed::{Owed, RedisReplies};
use crate::backend::{BackendError, GivenOrder, HeldOrder, NumberedOrder, OrderNews, ProbeVerdict, Token, Votes};

pub(super) struct WatchedCircuit {
    pub(super) circuit: PeerCircuit,
    pub(super) probe: ProbeHolder,
    /// How often since the circuit opened this process returned the lease, because others needed it more.
    pub(super) returns: u32,
    /// When to read the circuit again.
    pub(super) look_at: Instant,
    /// There is something to report at once.
    pub(super) is_unsent: bool,
    /// Redis does not know this process's vote yet.
    pub(super) owes_vote: bool,
    /// Redis does not know the result of the probe with this lease yet. Until it does, no other process may probe.
    pub(super) owes_verdict: Option<(Token, ProbeVerdict)>,
    /// When it last opened, and how often it had opened by then, as the layer reported to this task.
    pub(super) opened: Option<(Instant, u64)>,
    /// The operator's order that it obeys.
    pub(super) order: Option<NumberedOrder>,
    /// When the operator gave it, by this process's clock; `None`: only the engine's clock knows, which may have
    /// jumped.
    pub(super) order_given: Option<Instant>,
    /// Since when it obeys that order.
    pub(super) obeyed_since: Instant,
    /// An order of an operator in this process that Redis does not know yet.
    pub(super) owes_order: Option<GivenOrder>,
}

/// Who probes.
pub(super) enum ProbeHolder {
    /// No process: the circuit is not open, or this process continues alone.
    None,
    /// No process yet: this one requests the lease at `ask_at`.
    Held {
        _hold: ProbeHold,
        ask_at: Instant,
        /// The refused calls when another process had the lease, or needed it more. This one asks again after it
        /// has refused more.
        refused: Option<u64>,
    },
    /// This process, with this lease.
    Ours {
        lease: Token,
        since: Instant,
        /// Whether Redis granted it. If not, the reply was lost, and the circuit continues as without sharing.
        is_sure: bool,
        /// Whether to return it, unless a call probes.
        is_returned: bool,
        /// When to renew it, or return it; `None`: a call probes.
        renew_at: Option<Instant>,
    },
}

/// The meaning of a state change for other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The upstream fails, and calls are refused for this long.
    Opened(Duration),
    /// The circuit opened because of other processes.
    Followed(Duration),
    /// A call probes the upstream.
    Probes,
    /// The upstream has recovered.
    Closed,
    /// Set by hand. Orders for all processes are sent separately.
    Ours,
}

/// Of two orders given within this time the higher number wins: news of an order may be delayed this long, so that it
/// seems later than it was.
const ORDERS_APART: Duration = Duration::from_secs(1);

/// How far an order that is repeated because it is the later one is numbered above the other: no order sent meanwhile gets
/// the same number.
const ABOVE: u64 = 1_000;

/// How often this process repeats a verdict that Redis did not take.
pub(super) const LOOK_OWED: Duration = Duration::from_millis(500);

/// How often this process reads a closed circuit, and one that is not closed, for news that it missed.
pub(super) const LOOK_CLOSED: Duration = Duration::from_secs(20);
pub(super) const LOOK_OPEN: Duration = Duration::from_secs(5);

// === impl Watched ===

impl WatchedCircuit {
    pub(super) fn new(circuit: PeerCircuit) -> Self {
        Self {
            circuit,
            probe: ProbeHolder::None,
            returns: 0,
            look_at: Instant::now() + LOOK_CLOSED,
            is_unsent: false,
            owes_vote: false,
            owes_verdict: None,
            opened: None,
            order: None,
            order_given: None,
            obeyed_since: Instant::now(),
            owes_order: None,
        }
    }

    /// Holds probes, and requests their lease after `open_for`.
    pub(super) fn hold(&mut self, open_for: Duration) {
        self.returns = 0;
        self.hold_until(open_for, None);
    }

    /// This process had no call to probe with, and others had: it requests the lease again when it has one.
    pub(super) fn hold_until_called(&mut self, at_least: Duration) {
        let refused = self.refused();
        self.hold_until(at_least, Some(refused));
    }

    fn hold_until(&mut self, wait: Duration, refused: Option<u64>) {
        // Ends the existing hold first; later it would end the new one too.
        self.probe = ProbeHolder::None;
        self.probe = ProbeHolder::Held { _hold: self.circuit.hold_probes(), ask_at: Instant::now() + wait, refused };
    }

    /// The number of refused calls.
    pub(super) fn refused(&self) -> u64 {
        self.circuit.handle().map_or(0, |handle| handle.snapshot().refused)
    }

    pub(super) fn receive(&mut self, votes: Votes) {
        self.circuit.apply(PeerReport::new(votes.votes, votes.active, votes.open_for));
        let here = self.circuit.handle().and_then(|handle| handle.snapshot().open_for);
        self.ask_in(jittered(votes.open_for.min(here.unwrap_or(votes.open_for))));
    }

    pub(super) fn ask_in(&mut self, wait: Duration) {
        if let ProbeHolder::Held { ask_at, .. } = &mut self.probe {
            *ask_at = Instant::now() + wait;
        }
    }

    pub(super) fn lease(&self) -> Option<Token> {
        match self.probe {
            ProbeHolder::Ours { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The lease that this process returned without a reply, which it may still have; else a new one.
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
        if let (ProbeHolder::Held { ask_at, .. }, Some(handle)) = (&mut self.probe, self.circuit.handle()) {
            let left = handle.snapshot().open_for.unwrap_or_default();
            *ask_at = (*ask_at).min(Instant::now() + left);
        }
    }

    /// When to act next.
    pub(super) fn due(&self) -> Instant {
        let probe = match &self.probe {
            ProbeHolder::None => None,
            ProbeHolder::Held { ask_at, .. } => Some(*ask_at),
            ProbeHolder::Ours { renew_at, .. } => *renew_at,
        };
        probe.map_or(self.look_at, |probe| probe.min(self.look_at))
    }

    /// Obeys an order that is later than the last one and was given `age` ago.
    pub(super) fn obey(&mut self, order: NumberedOrder, age: Duration) {
        if self.order.is_none_or(|last| last.number < order.number) {
            self.change_order(order, age);
        }
    }

    fn change_order(&mut self, order: NumberedOrder, age: Duration) {
        (self.order, self.order_given, self.obeyed_since) = (Some(order), None, Instant::now());
        if !self.is_outdated(order.order, age) {
            self.circuit.obey(order.order);
        }
    }

    /// Obeys the order that Redis holds, or returns the one to repeat: Redis has lost it, or holds an earlier one.
    pub(super) fn obey_held(&mut self, held: Option<HeldOrder>) -> Option<HeldOrder> {
        let number = held.map_or(0, |held| held.order.number);
        match (held, self.order) {
            // Of two orders with the same number the one that Redis holds wins everywhere.
            (Some(HeldOrder { order, age }), own) if own.is_none_or(|own| own.number <= number && own != order) => {
                self.change_order(order, age);
            }
            _ => {}
        }
        let age = self.order_given.unwrap_or(self.obeyed_since).elapsed();
        self.order.filter(|own| number < own.number).map(|order| HeldOrder { order, age })
    }

    /// Handles news of an order. An order from before the one that is obeyed here may have the higher number, because the
    /// engine's clock jumped or it has lost the later one. Then this process repeats the later one, with a number above.
    pub(super) fn on_order(&mut self, news: &OrderNews) {
        let OrderNews { order, age, is_again, .. } = *news;
        let latest = Instant::now().checked_sub(age);
        if let (Some(latest), Some(obeyed), Some(given)) = (latest, &mut self.order, self.order_given)
            && *obeyed != order
            && obeyed.number <= order.number
            && latest + ORDERS_APART < given
        {
            obeyed.number = order.number.saturating_add(ABOVE);
            self.look_at = Instant::now();
            return;
        }
        self.obey(order, age);
        if self.order == Some(order) {
            self.order_given = latest.filter(|_| !is_again).or(self.order_given);
        }
    }

    /// Whether the order is a `Close` that comes too late: the circuit has opened since.
    fn is_outdated(&self, order: CircuitOrder, age: Duration) -> bool {
        let Some(handle) = self.circuit.handle().filter(|_| order == CircuitOrder::Close) else { return false };
        let snapshot = handle.snapshot();
        // An opening that this task does not know yet is newer than the order.
        let opened_before = self.opened.is_some_and(|(at, times)| times == snapshot.opened && at.elapsed() >= age);
        self.is_open() && !opened_before
    }

    /// What to report, if anything.
    pub(super) fn owed(&mut self) -> Option<Owed> {
        self.is_unsent = false;
        let open_for = || self.circuit.handle()?.snapshot().open_for;
        let vote = if self.owes_vote { open_for().filter(|left| !left.is_zero()) } else { None };
        // A vote that Redis did not take while it held is useless now.
        self.owes_vote = vote.is_some();
        let renewed = if self.is_probing() { self.lease() } else { None };
        let owed = Owed { renewed, verdict: self.owes_verdict, vote, order: self.owes_order };
        let is_any = renewed.is_some() || owed.verdict.is_some() || owed.vote.is_some() || owed.order.is_some();
        is_any.then_some(owed)
    }

    /// Records whether Redis took what was [owed](Self::owed).
    pub(super) fn reported(&mut self, replies: RedisReplies) {
        let RedisReplies { renewed, verdict, vote, order } = replies;
        if let Some((lease, renewed)) = renewed {
            self.renewed(lease, &renewed);
        }
        if let Some((lease, verdict, taken)) = verdict {
            self.verdict_reported(lease, verdict, &taken);
        }
        self.owes_vote = vote.is_some_and(|taken| taken.is_err());
        match order {
            Some(Ok(HeldOrder { order, age })) => {
                self.owes_order = None;
                self.obey(order, age);
            }
            Some(Err(_)) => self.look_at = self.look_at.min(Instant::now() + LOOK_OPEN),
            None => {}
        }
    }

    /// The probe with this lease, if any, has ended. Reports its result at once.
    pub(super) fn end_probe(&mut self, lease: Option<Token>, verdict: ProbeVerdict) {
        if let Some(lease) = lease {
            (self.owes_verdict, self.is_unsent) = (Some((lease, verdict)), true);
        }
    }

    /// Records the reply to a probe's result. If Redis knows it, the lease has ended, now or earlier.
    pub(super) fn verdict_reported(&mut self, lease: Token, verdict: ProbeVerdict, taken: &Result<bool, BackendError>) {
        match taken {
            Ok(_) => self.owes_verdict = None,
            Err(_) => self.owe_verdict(lease, verdict),
        }
    }

    /// Redis did not take the result of a probe. A failure is repeated as a vote, so that then only the lease must be
    /// returned.
    fn owe_verdict(&mut self, lease: Token, verdict: ProbeVerdict) {
        let owed = if verdict == ProbeVerdict::Well { ProbeVerdict::Well } else { ProbeVerdict::GivenBack };
        self.owes_verdict = Some((lease, owed));
        self.look_at = self.look_at.min(Instant::now() + LOOK_OWED);
    }

    /// Notes that the circuit has opened.
    pub(super) fn note_opened(&mut self) {
        let times = self.circuit.handle().map_or(0, |handle| handle.snapshot().opened);
        self.opened = Some((Instant::now(), times));
    }

    /// Whether a call of this process probes the upstream.
    pub(super) fn is_probing(&self) -> bool {
        self.circuit.handle().is_some_and(|handle| handle.snapshot().probes > 0)
    }

    pub(super) fn is_open(&self) -> bool {
        let state = self.circuit.handle().map(|handle| handle.state());
        matches!(state, Some(CircuitState::Open | CircuitState::HalfOpen))
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

/// Adds jitter, so that processes do not ask at the same time.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() * 0.1)
}
