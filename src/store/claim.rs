use std::time::{Duration, Instant};

use super::log::ResponseLog;
use super::recorder::Recorder;
use crate::call::TenantHash;
use crate::policy::broadcast::Limits;
use crate::proto::fingerprint::Fingerprint;

/// The answer to a [`ClaimRequest`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Claim<L> {
    /// The key is taken: the layer makes the call, and records its answer.
    Lead {
        /// The lock.
        lease: L,
        /// The recorder that [`ClaimRequest::open_log`] returned.
        recorder: Recorder,
    },
    /// The same request is in flight.
    Follow(ResponseLog),
    /// The same request was answered, and the answer is kept.
    Replay(ResponseLog),
    /// The key is that of a request with another payload.
    Mismatch,
    /// No more keys can be taken, or none of this tenant.
    Full {
        /// When there may be room, where that is known.
        retry_after: Option<Duration>,
    },
}

/// A request, as a [`Store`](super::Store) sees it.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    pub(crate) key: Fingerprint,
    pub(crate) payload: Fingerprint,
    pub(crate) tenant: Fingerprint,
    /// The tenant that was authenticated.
    pub(crate) owner: Option<TenantHash>,
    pub(crate) has_client_key: bool,
    pub(crate) now: Instant,
    pub(crate) limits: Limits,
}

/// How long an answer is kept, and how firmly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub(crate) now: Instant,
    pub(crate) window: Duration,
    pub(crate) guaranteed: bool,
}

// === impl ClaimRequest ===

impl ClaimRequest {
    /// What names the request: unique to its tenant, method, host, path and query, and to the key that its caller gave it
    /// or else the rest of the request.
    #[must_use]
    pub fn key(&self) -> &Fingerprint {
        &self.key
    }

    /// What the request says. The same key with another payload is a mistake.
    #[must_use]
    pub fn payload(&self) -> &Fingerprint {
        &self.payload
    }

    /// On whose account the request is made. One tenant's calls must not take the place of all others.
    #[must_use]
    pub fn tenant(&self) -> &Fingerprint {
        &self.tenant
    }

    /// The tenant that was authenticated, by which what is kept is forgotten. `None`: none was.
    #[must_use]
    pub fn owner(&self) -> Option<TenantHash> {
        self.owner
    }

    /// Whether its caller gave it an `Idempotency-Key`.
    #[must_use]
    pub fn has_client_key(&self) -> bool {
        self.has_client_key
    }

    /// When it was claimed.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Opens a log for its answer, within the limits of the layer that claims.
    #[must_use]
    pub fn open_log(&self) -> (Recorder, ResponseLog) {
        Recorder::open(self.limits)
    }
}

// === impl Retention ===

impl Retention {
    /// That of an answer which ended at `now`, is replayed for `window`, and may be forgotten earlier to make room: for
    /// stores that have it elsewhere too.
    #[must_use]
    pub fn new(now: Instant, window: Duration) -> Self {
        Self { now, window, guaranteed: false }
    }

    /// When the answer ended. The window begins then.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How long the answer is replayed.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Whether the answer must be kept for its whole window: it is the success of a request with an `Idempotency-Key`.
    /// Any other may be forgotten earlier, to make room.
    #[must_use]
    pub fn is_guaranteed(&self) -> bool {
        self.guaranteed
    }
}
