//! The last good answers that several processes share.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{AnswerFuture, Head, TenantHash};
use crate::proto::fingerprint::Fingerprint;

/// Shares the answers of a `LastGoodLayer` with other processes: see its `share`. The crate `tower-buttress-redis` has an
/// implementation over Redis.
///
/// [`keep`](Self::keep) must return at once. The layer calls [`find`](Self::find) when a call has failed, and waits at
/// most 0.5 s: if the backend is unreachable, return `None` early.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
/// use std::time::{Duration, Instant};
/// use tower_buttress::store::{AnswerFuture, Fingerprint, LastGoodAnswer, LastGoodKeys, SharedLastGood};
///
/// /// For layers of one process.
/// #[derive(Default)]
/// struct Local(Mutex<HashMap<Fingerprint, LastGoodAnswer>>);
///
/// impl SharedLastGood for Local {
///     fn keep(&self, keys: LastGoodKeys, answer: LastGoodAnswer, _ttl: Duration) {
///         self.0.lock().unwrap().insert(keys.exact, answer);
///     }
///
///     fn find(&self, keys: LastGoodKeys, max_age: Duration) -> AnswerFuture<Option<LastGoodAnswer>> {
///         let answer = self.0.lock().unwrap().get(&keys.exact).cloned();
///         let young = answer.filter(|answer| answer.age(Instant::now()) <= max_age);
///         Box::pin(std::future::ready(young))
///     }
/// }
///
/// // `LastGoodLayer::new().share(Arc::new(Local::default()))`
/// # let _ = Local::default();
/// ```
pub trait SharedLastGood: Send + Sync + 'static {
    /// Shares an answer that was stored here, for `ttl`. It replaces an earlier answer to the same request.
    fn keep(&self, keys: LastGoodKeys, answer: LastGoodAnswer, ttl: Duration);

    /// Returns the last answer to this request, or to a request of the same normal form, at most `max_age`
    /// [old](LastGoodAnswer::age).
    fn find(&self, keys: LastGoodKeys, max_age: Duration) -> AnswerFuture<Option<LastGoodAnswer>>;
}

/// The keys of a last good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastGoodKeys {
    /// The tenant on whose account the request is made.
    pub tenant: Fingerprint,
    /// The authenticated tenant.
    pub owner: Option<TenantHash>,
    /// Identifies the exact request, its tenant included.
    pub exact: Fingerprint,
    /// Identifies all requests of its normal form.
    pub normal: Option<Fingerprint>,
}

/// A complete answer.
#[derive(Clone)]
#[non_exhaustive]
pub struct LastGoodAnswer {
    /// Its head, with its age.
    pub head: Head,
    /// Its body.
    pub body: Bytes,
    /// Whether it answered exactly this request, not another of the same normal form.
    pub is_exact: bool,
}

// === impl LastGoodKeys ===

impl LastGoodKeys {
    /// Returns the keys of a request.
    #[must_use]
    pub fn new(
        tenant: Fingerprint,
        owner: Option<TenantHash>,
        exact: Fingerprint,
        normal: Option<Fingerprint>,
    ) -> Self {
        Self { tenant, owner, exact, normal }
    }
}

// === impl LastGoodAnswer ===

impl LastGoodAnswer {
    /// Returns an answer to exactly this request.
    #[must_use]
    pub fn new(head: Head, body: Bytes) -> Self {
        Self { head, body, is_exact: true }
    }

    /// Returns the answer's age at `now`, its `Age` header included.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        self.head.full_age(now)
    }

    /// Sets whether it answered exactly this request.
    #[must_use]
    pub fn exact(mut self, is_exact: bool) -> Self {
        self.is_exact = is_exact;
        self
    }
}

impl fmt::Debug for LastGoodAnswer {
    // A caller's text must not appear in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGoodAnswer")
            .field("head", &self.head)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
