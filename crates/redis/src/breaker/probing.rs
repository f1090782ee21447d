//! How this process requests and returns the lease of a probe.

use std::time::Duration;

use tokio::time::Instant;

use super::owed::{ACTIVE, PROBE_LEASE};
use super::watched::{Probe, Watched, jittered};
use crate::backend::{BackendError, CircuitBackend, CircuitId, ProbeLease, ProbeVerdict, Process, Token};

/// A request to Redis.
pub(super) enum ProbeStep {
    /// Requests the lease.
    Ask(Token),
    /// Returns the lease: no call came to probe with.
    GiveBack(Token),
}

/// Redis's reply.
pub(super) enum StepReply {
    Asked(Token, Result<ProbeLease, BackendError>),
    GivenBack(Token, Result<bool, BackendError>),
}

/// A process without a call for this long returns the lease.
const NO_CALL: Duration = Duration::from_secs(2);

/// How often this process requests the lease while another one probes, or while it has no call.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Redis's clock may be slightly behind: an immediate request would be too early again.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

// === impl ProbeStep ===

impl ProbeStep {
    pub(super) async fn take<B: CircuitBackend>(self, backend: B, id: CircuitId, process: Process) -> StepReply {
        match self {
            Self::Ask(lease) => StepReply::Asked(lease, backend.probe(id, lease, PROBE_LEASE).await),
            Self::GiveBack(lease) => {
                let given_back = backend.verdict(id, lease, process, ProbeVerdict::GivenBack, ACTIVE).await;
                StepReply::GivenBack(lease, given_back)
            }
        }
    }
}

// === impl Watched ===

impl Watched {
    /// What to do for the probe now; `None`: nothing.
    pub(super) fn next_step(&mut self, now: Instant) -> Option<ProbeStep> {
        let is_probing = self.is_probing();
        if let Probe::Ours { give_back_at, .. } = &mut self.probe {
            match give_back_at {
                Some(_) if is_probing => *give_back_at = None,
                // The caller of the probe has left, which changes no state.
                None if !is_probing => *give_back_at = Some(now + NO_CALL),
                _ => {}
            }
        }
        match self.probe {
            Probe::Held { ask_at, refused, .. } if ask_at <= now => {
                if refused.is_some_and(|refused| self.refused() <= refused) {
                    self.ask_in(jittered(ASK_EVERY));
                    return None;
                }
                Some(ProbeStep::Ask(self.lease_to_ask_for()))
            }
            Probe::Ours { lease, is_sure, give_back_at: Some(at) } if at <= now => {
                if is_sure {
                    self.hold_until_called(jittered(NO_CALL));
                } else {
                    self.probe = Probe::None;
                }
                Some(ProbeStep::GiveBack(lease))
            }
            _ => None,
        }
    }

    /// Handles the reply to a renewed lease. On failure the next look repeats it.
    pub(super) fn renewed(&mut self, lease: Token, renewed: &Result<ProbeLease, BackendError>) {
        match renewed {
            // Redis had lost the lease, and another process probes or is about to. This one sends no further probe.
            Ok(ProbeLease::Wait(wait)) if self.lease() == Some(lease) => {
                self.hold(jittered((*wait).clamp(SHORTEST_WAIT, ASK_EVERY)));
            }
            _ => {}
        }
    }

    pub(super) fn on_step(&mut self, reply: StepReply) {
        // The hold ends now: the next call is the probe. Counts from the reply, which may be late.
        let ours = |lease, is_sure| Probe::Ours { lease, is_sure, give_back_at: Some(Instant::now() + NO_CALL) };
        match reply {
            StepReply::Asked(lease, Ok(ProbeLease::Granted { unanswered })) => {
                self.circuit.note_unanswered(unanswered);
                self.probe = ours(lease, true);
            }
            // Another process probes, or is about to stop.
            StepReply::Asked(_, Ok(ProbeLease::Wait(wait))) => {
                self.ask_in(jittered(wait.clamp(SHORTEST_WAIT, ASK_EVERY)));
            }
            // Each process continues alone. This one may still have the lease.
            StepReply::Asked(lease, Err(_)) => self.probe = ours(lease, false),
            StepReply::GivenBack(lease, given_back) => {
                self.verdict_reported(lease, ProbeVerdict::GivenBack, &given_back);
            }
        }
    }
}
