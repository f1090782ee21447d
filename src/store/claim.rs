use std::time::{Duration, Instant};

use super::log::ResponseLog;
use super::recorder::Recorder;
use crate::call::TenantHash;
use crate::policy::broadcast::LogLimits;
use crate::proto::fingerprint::Fingerprint;

/// The answer to a [`ClaimRequest`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Claim<L> {
    /// The key is taken: the layer makes the call, and records its answer. Made with [`lead`](Self::lead).
    #[non_exhaustive]
    Lead {
        /// The lock.
        lease: L,
        /// The recorder that [`ClaimRequest::open_log`] returned.
        recorder: Recorder,
    },
    /// The same request is in flight; the layer reads its log.
    Follow(ResponseLog),
    /// The same request was answered, and the answer is stored.
    Replay(ResponseLog),
    /// The key was used for another payload.
    Mismatch,
    /// The store, or this tenant's share of it, has no room. Made with [`full`](Self::full).
    #[non_exhaustive]
    Full {
        /// When there may be room, if known.
        retry_after: Option<Duration>,
    },
}

/// A request, as a [`Store`](super::Store) sees it.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    pub(crate) key: Fingerprint,
    pub(crate) payload: Fingerprint,
    pub(crate) tenant: Fingerprint,
    /// The authenticated tenant.
    pub(crate) owner: Option<TenantHash>,
    pub(crate) has_client_key: bool,
    pub(crate) now: Instant,
    pub(crate) limits: LogLimits,
}

/// How long an answer is stored, and whether it may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub(crate) now: Instant,
    pub(crate) window: Duration,
    pub(crate) guaranteed: bool,
}

// === impl Claim ===

impl<L> Claim<L> {
    /// The key is taken with this lock; `recorder` is that of [`ClaimRequest::open_log`].
    #[must_use]
    pub const fn lead(lease: L, recorder: Recorder) -> Self {
        Self::Lead { lease, recorder }
    }

    /// There is no room, perhaps until then.
    #[must_use]
    pub const fn full(retry_after: Option<Duration>) -> Self {
        Self::Full { retry_after }
    }
}

// === impl ClaimRequest ===

impl ClaimRequest {
    /// Identifies the request: unique to its tenant, method, host, path and query, and to its `Idempotency-Key`, or else
    /// the rest of the request.
    #[must_use]
    pub fn key(&self) -> &Fingerprint {
        &self.key
    }

    /// The content of the request. The same key with another payload is an error of the caller.
    #[must_use]
    pub fn payload(&self) -> &Fingerprint {
        &self.payload
    }

    /// The tenant on whose account the request is made. One tenant's calls must not evict those of all others.
    #[must_use]
    pub fn tenant(&self) -> &Fingerprint {
        &self.tenant
    }

    /// The authenticated tenant, by which stored answers are removed. `None`: not authenticated.
    #[must_use]
    pub fn owner(&self) -> Option<TenantHash> {
        self.owner
    }

    /// Whether the request has an `Idempotency-Key`.
    #[must_use]
    pub fn has_client_key(&self) -> bool {
        self.has_client_key
    }

    /// When the request was claimed.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Opens a log for the answer, within the limits of the layer.
    #[must_use]
    pub fn open_log(&self) -> (Recorder, ResponseLog) {
        Recorder::open(self.limits)
    }
}

// === impl Retention ===

impl Retention {
    /// Returns the retention of an answer that ended at `now`, is replayed for `window`, and may be evicted: for stores
    /// that also store it elsewhere.
    #[must_use]
    pub fn new(now: Instant, window: Duration) -> Self {
        Self { now, window, guaranteed: false }
    }

    /// When the answer ended, which starts the window.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How long the answer is replayed.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Whether the answer must be stored for its whole window: it is the success of a request with an `Idempotency-Key`.
    /// Other answers may be evicted.
    #[must_use]
    pub fn is_guaranteed(&self) -> bool {
        self.guaranteed
    }
}
