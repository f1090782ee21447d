//! How the limits of several processes learn of one another's pauses.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::key::Key;
use crate::proto::fingerprint::Fingerprint;
use crate::rt::clock;

/// Shares pauses with other processes: see [`PaceLayer::share`](crate::PaceLayer::share).
///
/// Both methods are called on tasks that make calls: they must return at once, and leave what takes time to a task of
/// their own. The crate `tower-buttress-redis` has one over Redis.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use tower_buttress::{PaceLayer, PacePeers, PeerLimit};
///
/// /// The limits of this process, and what it was told to wait.
/// #[derive(Default)]
/// struct Log(Mutex<Vec<(PeerLimit, Option<Duration>)>>);
///
/// impl PacePeers for Log {
///     fn on_new(&self, limit: PeerLimit) {
///         self.0.lock().unwrap().push((limit, None));
///     }
///
///     fn on_pause(&self, limit: PeerLimit, pause: Duration) {
///         self.0.lock().unwrap().push((limit, Some(pause)));
///     }
/// }
///
/// let layer = PaceLayer::new().share(Arc::new(Log::default()));
/// # let _ = layer;
/// ```
pub trait PacePeers: Send + Sync {
    /// A limit is used for the first time in this process.
    fn on_new(&self, limit: PeerLimit);

    /// An upstream told this process to wait, with all calls of this limit.
    fn on_pause(&self, limit: PeerLimit, pause: Duration);
}

/// One limit of this process, for [`PacePeers`]. It does not keep the limit alive.
#[derive(Clone)]
pub struct PeerLimit {
    key: Weak<Key>,
    id: Fingerprint,
}

/// The peers of a layer.
#[derive(Clone)]
pub(super) struct Peers(pub(super) Arc<dyn PacePeers>);

// === impl PeerLimit ===

impl PeerLimit {
    pub(super) fn new(key: &Arc<Key>, id: Fingerprint) -> Self {
        Self { key: Arc::downgrade(key), id }
    }

    /// What names the limit in every process: a digest of host, credential and, where each has its own, model; or of what
    /// [`PaceLayer::key`](crate::PaceLayer::key) says.
    #[must_use]
    pub fn id(&self) -> &Fingerprint {
        &self.id
    }

    /// Whether it is still in use.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.key.strong_count() > 0
    }

    /// Another process was told to wait for this long from now. The calls here wait too, at most for
    /// [`max_pause`](crate::PaceLayer::max_pause), and start again one interval apart. A pause is never shortened.
    pub fn pause(&self, pause: Duration) {
        if let Some(key) = self.key.upgrade() {
            key.pause(pause, clock::now());
        }
    }
}

impl fmt::Debug for PeerLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerLimit").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Peers ===

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacePeers")
    }
}
