//! What this process must report about a circuit until Redis knows.

use std::time::Duration;

use crate::backend::{
    BackendError, CircuitBackend, CircuitId, GivenOrder, HeldOrder, ProbeLease, ProbeVerdict, Process, Token, Votes,
};

/// Everything to report about one circuit.
pub(super) struct Owed {
    /// The lease of a probe in flight, to renew.
    pub(super) renewed: Option<Token>,
    pub(super) verdict: Option<(Token, ProbeVerdict)>,
    /// How long the circuit stays open here.
    pub(super) vote: Option<Duration>,
    pub(super) order: Option<GivenOrder>,
}

/// Redis's replies.
pub(super) struct RedisReplies {
    pub(super) renewed: Option<(Token, Result<ProbeLease, BackendError>)>,
    pub(super) verdict: Option<(Token, ProbeVerdict, Result<bool, BackendError>)>,
    pub(super) vote: Option<Result<Votes, BackendError>>,
    pub(super) order: Option<Result<HeldOrder, BackendError>>,
}

/// A process that is silent this long has no vote.
pub(super) const ACTIVE: Duration = Duration::from_secs(60);

/// Another process takes the probe of one that is silent this long. The lease is renewed while a probe is in flight.
const PROBE_LEASE: Duration = Duration::from_secs(60);

// === impl Owed ===

impl Owed {
    /// The verdict goes first: a later success would clear a vote sent before it.
    pub(super) async fn send<B: CircuitBackend>(self, backend: B, id: CircuitId, process: Process) -> RedisReplies {
        let Self { renewed, verdict, vote, order } = self;
        let renewed = match renewed {
            Some(lease) => Some((lease, backend.probe(id, lease, PROBE_LEASE).await)),
            None => None,
        };
        let verdict = match verdict {
            Some((lease, verdict)) => {
                Some((lease, verdict, backend.verdict(id, lease, process, verdict, ACTIVE).await))
            }
            None => None,
        };
        // A failure that counts is a vote.
        let has_voted = matches!(verdict, Some((_, ProbeVerdict::Failed { .. }, Ok(true))));
        let vote = match vote.filter(|_| !has_voted) {
            Some(open_for) => Some(backend.vote(id, process, open_for, ACTIVE).await),
            None => None,
        };
        let order = match order {
            Some(order) => Some(backend.order(id, process, order).await),
            None => None,
        };
        RedisReplies { renewed, verdict, vote, order }
    }
}
