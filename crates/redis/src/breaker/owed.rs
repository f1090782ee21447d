//! What this process has to tell the fleet of a circuit, until the fleet knows.

use std::time::Duration;

use crate::backend::{
    BackendError, CircuitBackend, CircuitId, GivenOrder, HeldOrder, ProbeVerdict, Process, Token, Votes,
};

/// All that is to be told of one circuit.
pub(super) struct Owed {
    /// The lease of a probe that is still under way.
    pub(super) renewed: Option<Token>,
    pub(super) verdict: Option<(Token, ProbeVerdict)>,
    /// For how long the circuit is still open here.
    pub(super) vote: Option<Duration>,
    pub(super) order: Option<GivenOrder>,
}

/// What Redis said to that.
pub(super) struct Told {
    pub(super) verdict: Option<(Token, ProbeVerdict, Result<bool, BackendError>)>,
    pub(super) vote: Option<Result<Votes, BackendError>>,
    pub(super) order: Option<Result<HeldOrder, BackendError>>,
}

/// A process that is not heard of for this long has no say.
pub(super) const ACTIVE: Duration = Duration::from_secs(60);

/// A probe of a process that is not heard of for this long is another's. As long as one is under way, its lease is renewed.
pub(super) const PROBE_LEASE: Duration = Duration::from_secs(60);

// === impl Owed ===

impl Owed {
    /// The verdict first: a vote that came before it would be cleared by one that says that the upstream is well.
    pub(super) async fn tell<B: CircuitBackend>(self, backend: B, id: CircuitId, process: Process) -> Told {
        let Self { renewed, verdict, vote, order } = self;
        if let Some(lease) = renewed {
            // Where Redis does not hear of it, it is told with the next look.
            let _ = backend.probe(id, lease, PROBE_LEASE).await;
        }
        let verdict = match verdict {
            Some((lease, verdict)) => {
                Some((lease, verdict, backend.verdict(id, lease, process, verdict, ACTIVE).await))
            }
            None => None,
        };
        let vote = match vote {
            Some(open_for) => Some(backend.vote(id, process, open_for, ACTIVE).await),
            None => None,
        };
        let order = match order {
            Some(order) => Some(backend.order(id, process, order).await),
            None => None,
        };
        Told { verdict, vote, order }
    }
}
