//! The last good answers, where several processes share them.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{AnswerFuture, Head, TenantHash};
use crate::proto::fingerprint::Fingerprint;

/// Shares the answers of a `LastGoodLayer` with other processes: see its `share`. The crate `tower-buttress-redis` has one over
/// Redis.
///
/// [`keep`](Self::keep) returns at once. [`find`](Self::find) is asked by a call that has failed, and waited for half a second at
/// most: where the others cannot be reached, it returns `None` early.
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
    /// An answer was kept here, for `ttl`. It takes the place of an earlier one to the same request.
    fn keep(&self, keys: LastGoodKeys, answer: LastGoodAnswer, ttl: Duration);

    /// The last answer to this request, or to one of the same normal form, that is not [older](LastGoodAnswer::age) than
    /// `max_age`.
    fn find(&self, keys: LastGoodKeys, max_age: Duration) -> AnswerFuture<Option<LastGoodAnswer>>;
}

/// What a last good answer is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastGoodKeys {
    /// On whose account the request is made.
    pub tenant: Fingerprint,
    /// The tenant that was authenticated.
    pub owner: Option<TenantHash>,
    /// What names the very request, its tenant included.
    pub exact: Fingerprint,
    /// What names all requests of its normal form.
    pub normal: Option<Fingerprint>,
}

/// A whole answer.
#[derive(Clone)]
#[non_exhaustive]
pub struct LastGoodAnswer {
    /// Its head, with its age.
    pub head: Head,
    /// Its body.
    pub body: Bytes,
    /// It was given to the very same request, and not to another of the same normal form.
    pub is_exact: bool,
}

// === impl LastGoodKeys ===

impl LastGoodKeys {
    /// The keys of a request.
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
    /// An answer to the very same request.
    #[must_use]
    pub fn new(head: Head, body: Bytes) -> Self {
        Self { head, body, is_exact: true }
    }

    /// How old it is at `now`, by all that is known: what its `Age` header said included.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        self.head.full_age(now)
    }

    /// The same, where it was given to another request of the same normal form.
    #[must_use]
    pub fn exact(mut self, is_exact: bool) -> Self {
        self.is_exact = is_exact;
        self
    }
}

impl fmt::Debug for LastGoodAnswer {
    // No text of a caller's, and none for a caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGoodAnswer")
            .field("head", &self.head)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
