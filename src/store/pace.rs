//! How the limits of several processes share pauses and rates.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Weak;
use std::time::Duration;

use crate::proto::fingerprint::Fingerprint;

/// Shares pauses with other processes: see [`PaceLayer::share`](crate::PaceLayer::share).
///
/// The layer calls these methods on tasks that make calls: they must return at once, and move slow work to tasks of their
/// own. The crate `tower-buttress-redis` has an implementation over Redis.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_buttress::{PaceLayer, PacePeers, PeerLimit, PeerPause};
///
/// /// The limits of this process, and how long they are paused.
/// #[derive(Default)]
/// struct Log(Mutex<Vec<(PeerLimit, Option<PeerPause>)>>);
///
/// impl PacePeers for Log {
///     fn on_new(&self, limit: PeerLimit) {
///         self.0.lock().unwrap().push((limit, None));
///     }
///
///     fn on_pause(&self, limit: PeerLimit, pause: PeerPause) {
///         self.0.lock().unwrap().push((limit, Some(pause)));
///     }
/// }
///
/// let layer = PaceLayer::new().share(Arc::new(Log::default()));
/// # let _ = layer;
/// ```
pub trait PacePeers: Send + Sync {
    /// Called when a limit is used for the first time in this process.
    fn on_new(&self, limit: PeerLimit);

    /// Called when an upstream asked this process to wait, with all calls of this limit.
    fn on_pause(&self, limit: PeerLimit, pause: PeerPause);

    /// Whether the layer calls [`reserve`](Self::reserve) before each call that a rate counts. Default: no.
    fn shares_rates(&self) -> bool {
        false
    }

    /// The number of processes that divide the rates while they cannot reach each other: when [`reserve`](Self::reserve)
    /// takes longer than a call waits for it. Default: 1.
    fn processes(&self) -> u32 {
        1
    }

    /// Takes `costs` from the rates of this limit, from all or from none, for a call that can wait for `max_wait`. This
    /// process knows of a pause of the limit's calls for another `pause` (zero: none): the turn must not be before its
    /// end. The future must complete within a fraction of a second: it delays the call. If it is dropped, nothing must be
    /// taken. Default: [`PeerTurn::Alone`].
    fn reserve(&self, limit: PeerLimit, costs: Vec<RateCost>, pause: Duration, max_wait: Duration) -> PeerReserving {
        let _ = (limit, costs, pause, max_wait);
        Box::pin(ready(PeerTurn::Alone { processes: 1 }))
    }

    /// A call that had reserved `reserved` has used `used`, in the same order; nothing if `used` is empty. Default: the
    /// difference is lost.
    fn settle(&self, limit: PeerLimit, reserved: Vec<RateCost>, used: Vec<RateCost>) {
        let _ = (limit, reserved, used);
    }
}

/// The future of [`PacePeers::reserve`].
pub type PeerReserving = Pin<Box<dyn Future<Output = PeerTurn> + Send>>;

/// When a call may be sent, for all processes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerTurn {
    /// After this wait. Its cost is taken. Made with [`go`](Self::go).
    #[non_exhaustive]
    Go {
        /// Zero: now.
        wait: Duration,
    },
    /// Later than the call can wait. Nothing is taken. Made with [`too_long`](Self::too_long).
    #[non_exhaustive]
    TooLong {
        /// How long it would have to wait.
        wait: Duration,
    },
    /// The other processes are unreachable: this process has its part of the rates. Made with [`alone`](Self::alone).
    #[non_exhaustive]
    Alone {
        /// The number of processes when they were last reachable.
        processes: u32,
    },
}

/// A pause of all calls of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerPause {
    /// How long the calls wait.
    pub wait: Duration,
    /// Whether that may be too short, because the upstream asked for more or gave no time: then one call of each process
    /// finds out whether the pause is over, before the others are sent.
    pub finds_out: bool,
}

/// The cost of a call for one rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateCost {
    name: String,
    cost: Duration,
    burst: Duration,
    level: Duration,
}

/// One limit of this process, for [`PacePeers`]. It does not keep the limit alive.
#[derive(Clone)]
pub struct PeerLimit {
    key: Weak<dyn Pausing>,
    id: Fingerprint,
}

/// A limit that peers can pause.
pub(crate) trait Pausing: Send + Sync {
    fn pause(&self, pause: PeerPause);
}

// === impl PeerTurn ===

impl PeerTurn {
    /// A call may be sent after `wait`; its cost is taken.
    #[must_use]
    pub const fn go(wait: Duration) -> Self {
        Self::Go { wait }
    }

    /// A call would have to wait for `wait`, which is longer than it can; nothing is taken.
    #[must_use]
    pub const fn too_long(wait: Duration) -> Self {
        Self::TooLong { wait }
    }

    /// The other processes are unreachable. `processes`: their number when they were last reachable, with this one.
    #[must_use]
    pub const fn alone(processes: u32) -> Self {
        Self::Alone { processes }
    }
}

// === impl PeerPause ===

impl PeerPause {
    /// Returns a pause.
    #[must_use]
    pub const fn new(wait: Duration, finds_out: bool) -> Self {
        Self { wait, finds_out }
    }
}

// === impl PeerLimit ===

impl PeerLimit {
    pub(crate) fn new(key: Weak<dyn Pausing>, id: Fingerprint) -> Self {
        Self { key, id }
    }

    /// Identifies the limit in every process: a digest of host, credential and, with limits per model, model; or of the
    /// key from [`PaceLayer::key`](crate::PaceLayer::key).
    #[must_use]
    pub fn id(&self) -> &Fingerprint {
        &self.id
    }

    /// Whether it is still in use.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.key.strong_count() > 0
    }

    /// Pauses the calls of this limit for another process's 429, from now, at most for
    /// [`max_pause`](crate::PaceLayer::max_pause). They restart one interval apart. A pause is never shortened.
    pub fn pause(&self, pause: PeerPause) {
        if let Some(key) = self.key.upgrade() {
            key.pause(pause);
        }
    }
}

impl fmt::Debug for PeerLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerLimit").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl RateCost ===

impl RateCost {
    pub(crate) fn new(name: String, cost: Duration, burst: Duration) -> Self {
        Self { name, cost, burst, level: Duration::ZERO }
    }

    pub(crate) fn with_level(self, level: Duration) -> Self {
        Self { level, ..self }
    }

    /// Identifies the rate within its limit, in every process: its unit, its number of units, and its period in
    /// microseconds.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The time in which the rate allows the call's units.
    #[must_use]
    pub fn cost(&self) -> Duration {
        self.cost
    }

    /// The time in which the rate allows its burst. A larger cost goes when nothing else is taken.
    #[must_use]
    pub fn burst(&self) -> Duration {
        self.burst
    }

    /// The time in which the rate allows the units already taken, as far as this process knows from its own calls and
    /// from answers. Zero when costs are settled.
    #[must_use]
    pub fn level(&self) -> Duration {
        self.level
    }
}
