//! How the limits of several processes learn of one another's pauses.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Weak;
use std::time::Duration;

use crate::proto::fingerprint::Fingerprint;

/// Shares pauses with other processes: see [`PaceLayer::share`](crate::PaceLayer::share).
///
/// Its methods are called on tasks that make calls: they must return at once, and leave what takes time to a task of
/// their own. The crate `tower-buttress-redis` has one over Redis.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_buttress::{PaceLayer, PacePeers, PeerLimit, PeerPause};
///
/// /// The limits of this process, and what it was told to wait.
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
    /// A limit is used for the first time in this process.
    fn on_new(&self, limit: PeerLimit);

    /// An upstream told this process to wait, with all calls of this limit.
    fn on_pause(&self, limit: PeerLimit, pause: PeerPause);

    /// Whether [`reserve`](Self::reserve) is asked before each call that a rate counts. Default: no.
    fn shares_rates(&self) -> bool {
        false
    }

    /// How many processes have a part of the rates while they cannot ask each other: where [`reserve`](Self::reserve) takes longer
    /// than a call waits for it. Default: 1.
    fn processes(&self) -> u32 {
        1
    }

    /// A call is to take `costs` from the rates of this limit, from all or from none, and can wait for `max_wait`. This process
    /// knows that the calls of the limit are paused for another `pause` (zero: they are not): the turn is not before its end.
    /// The future must end within a fraction of a second: it is in the way of the call. If it is dropped, nothing is taken.
    /// Default: [`PeerTurn::Alone`].
    fn reserve(&self, limit: PeerLimit, costs: Vec<RateCost>, pause: Duration, max_wait: Duration) -> PeerReserving {
        let _ = (limit, costs, pause, max_wait);
        Box::pin(ready(PeerTurn::Alone { processes: 1 }))
    }

    /// A call that had taken `reserved` has used `used`, in the same order; nothing where it is empty. Default: that is lost.
    fn settle(&self, limit: PeerLimit, reserved: Vec<RateCost>, used: Vec<RateCost>) {
        let _ = (limit, reserved, used);
    }
}

/// What [`PacePeers::reserve`] returns.
pub type PeerReserving = Pin<Box<dyn Future<Output = PeerTurn> + Send>>;

/// When a call may be sent, for all processes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerTurn {
    /// In this time. What it takes is taken.
    Go {
        /// Zero: now.
        wait: Duration,
    },
    /// Later than it can wait. Nothing is taken.
    TooLong {
        /// How long it would have to wait.
        wait: Duration,
    },
    /// The others cannot be asked: this process has its part of the rates.
    Alone {
        /// How many processes there were when they could be asked last.
        processes: u32,
    },
}

/// A pause of all calls of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerPause {
    /// How long they wait.
    pub wait: Duration,
    /// Whether that may be too short, because the upstream asked for more or did not say how long: then one call of each
    /// process finds out whether the pause is over, before the others are sent.
    pub finds_out: bool,
}

/// What a call takes of one rate.
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

/// A limit that others can pause.
pub(crate) trait Pausing: Send + Sync {
    fn pause(&self, pause: PeerPause);
}

// === impl PeerPause ===

impl PeerPause {
    /// A pause.
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

    /// What names the rate among those of its limit, in every process: what it counts, how much of it, and in how many
    /// microseconds.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The time in which the rate allows what the call takes.
    #[must_use]
    pub fn cost(&self) -> Duration {
        self.cost
    }

    /// The time in which the rate allows what may be taken at once. A cost that is larger goes when nothing else is taken.
    #[must_use]
    pub fn burst(&self) -> Duration {
        self.burst
    }

    /// The time in which the rate allows what is taken of it at least, as far as this process knows: from its own calls, and
    /// from what answers said of the limit. Zero in the costs that are settled.
    #[must_use]
    pub fn level(&self) -> Duration {
        self.level
    }
}
