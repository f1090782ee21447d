//! Rates shared by processes.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tower_buttress::store::Fingerprint;
use tower_buttress::{PacePeers, PeerLimit, PeerPause, PeerReserving, PeerTurn, RateCost};

use super::pauses::FleetPauses;
use crate::backend::{PauseBackend, Process, RateBackend, RateTurn, TakenRate, Token};
use crate::client::Redis;

/// Shares the pauses and rates of a [`PaceLayer`](tower_buttress::PaceLayer) with other processes: a rate applies to
/// all of them together.
///
/// ```
/// use std::sync::Arc;
/// use tower_buttress::{PaceLayer, Rate};
/// use tower_buttress_redis::{FleetPace, Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// let rate = Rate::per_minute(500);
/// let pace = PaceLayer::new().requests(rate).share(Arc::new(FleetPace::new(redis).processes(4)));
/// # let _ = pace;
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *A call is made that a rate counts*: one script takes what it needs from all of its rates, or from none, and returns
///   when to send it. Calls are sent in the order in which they asked, in all processes. A call whose turn is more than a
///   second away gets none yet: it waits in its process, where tenants take turns, and the first waiting call asks again.
///   While it gets turns more calls ask at once, up to 64, so that a slow Redis does not slow the rate down. A call that
///   would wait longer than [`max_wait`](tower_buttress::PaceLayer::max_wait) is refused at once, as far as its process can
///   tell; it infers the number of calls that wait elsewhere from the time between its own turns.
/// - *A call used less or more than reserved, or was not sent*: the difference is corrected after it. What a leaving caller
///   returns goes to calls that come then: they may be sent together with those that waited behind it.
/// - *An upstream answers 429*: as with [`FleetPauses`]. Calls of the fleet start again one interval of the rate apart. Calls
///   whose turn falls into the pause take another one behind it.
/// - *Redis is unreachable*: each process has its share of every rate, by the last known number of processes, each of which
///   reports every 5 s; before the first report by [`processes`](Self::processes).
/// - *An answer reports that less is left of a rate* (other clients use it too): the next call of the process that got the
///   answer waits for the difference, and the calls of other processes behind it.
/// - *Redis loses the rates* (it restarted): each process reports its own knowledge with its next call.
///
/// The rates of a caller ([`PaceLayer::per_caller`](tower_buttress::PaceLayer::per_caller)) also apply to all processes, per
/// tenant or, without one, per credential. A layer without rates shares only its pauses.
/// [Learned](tower_buttress::PaceLayer::learn) limits are per process.
///
/// # Cost
///
/// One script before each call that a rate counts, or a few if calls wait, within the [`patience`](crate::RedisOptions::patience)
/// of Redis; one more after it if tokens are counted.
pub struct FleetPace<B = Redis> {
    pauses: FleetPauses<B>,
    fleet: Arc<RateFleet<B>>,
}

/// A turn on its way to its call. Dropping it returns what it took.
struct Granted<B: RateBackend> {
    fleet: Arc<RateFleet<B>>,
    limit: Fingerprint,
    costs: Vec<RateCost>,
}

struct RateFleet<B> {
    backend: B,
    process: Process,
    /// How many processes there are, as far as is known.
    processes: AtomicU32,
    beats: AtomicBool,
}

const BEAT_EVERY: Duration = Duration::from_secs(5);

/// A process that is silent for this long is gone.
const BEAT_TTL: Duration = Duration::from_secs(15);

// === impl FleetPace ===

impl<B: PauseBackend + RateBackend> FleetPace<B> {
    /// The pauses and rates on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        let process = backend.process();
        let (processes, beats) = (AtomicU32::new(1), AtomicBool::new(false));
        let fleet = RateFleet { backend: backend.clone(), process, processes, beats };
        Self { pauses: FleetPauses::new(backend), fleet: Arc::new(fleet) }
    }

    /// The number of processes until Redis reports it: a process that starts during an outage takes its share by this
    /// number. Default: 1.
    #[must_use]
    pub fn processes(self, processes: u32) -> Self {
        self.fleet.processes.store(processes.max(1), Relaxed);
        self
    }
}

impl<B: PauseBackend + RateBackend> PacePeers for FleetPace<B> {
    fn on_new(&self, limit: PeerLimit) {
        if Handle::try_current().is_ok() && !self.fleet.beats.swap(true, Relaxed) {
            tokio::spawn(beat(Arc::downgrade(&self.fleet)));
        }
        self.pauses.on_new(limit);
    }

    fn on_pause(&self, limit: PeerLimit, pause: PeerPause) {
        self.pauses.on_pause(limit, pause);
    }

    fn processes(&self) -> u32 {
        self.fleet.processes.load(Relaxed)
    }

    fn shares_rates(&self) -> bool {
        Handle::try_current().is_ok()
    }

    fn reserve(&self, limit: PeerLimit, costs: Vec<RateCost>, pause: Duration, max_wait: Duration) -> PeerReserving {
        let fleet = self.fleet.clone();
        let id = *limit.id();
        Box::pin(async move {
            let (answer, turn) = oneshot::channel();
            let asked = fleet.clone();
            // In its own task, so that what was taken is returned if the call is dropped meanwhile.
            tokio::spawn(async move {
                let taken = costs.iter().map(taken).collect();
                let turn = asked.backend.reserve(id, Token::random(), taken, pause, max_wait).await;
                let is_taken = matches!(turn, Ok(RateTurn::Taken(_)));
                let granted = is_taken.then(|| Granted { fleet: asked, limit: id, costs });
                let _ = answer.send((turn, granted));
            });
            match turn.await {
                Ok((Ok(RateTurn::Taken(wait)), granted)) => {
                    granted.into_iter().for_each(Granted::arrived);
                    PeerTurn::go(wait)
                }
                Ok((Ok(RateTurn::TooLong(wait)), _)) => PeerTurn::too_long(wait),
                Ok((Err(_), _)) | Err(_) => PeerTurn::alone(fleet.processes.load(Relaxed)),
            }
        })
    }

    fn settle(&self, limit: PeerLimit, reserved: Vec<RateCost>, used: Vec<RateCost>) {
        self.fleet.clone().settle(*limit.id(), &reserved, &used);
    }
}

impl<B: RateBackend> RateFleet<B> {
    fn settle(self: Arc<Self>, limit: Fingerprint, reserved: &[RateCost], used: &[RateCost]) {
        let Ok(runtime) = Handle::try_current() else { return };
        let changes = changes(reserved, used);
        if !changes.is_empty() {
            runtime.spawn(async move { self.backend.refund(limit, Token::random(), changes).await });
        }
    }
}

impl<B: RateBackend> Granted<B> {
    /// From now on the call answers for it.
    fn arrived(mut self) {
        self.costs.clear();
    }
}

impl<B: RateBackend> Drop for Granted<B> {
    fn drop(&mut self) {
        self.fleet.clone().settle(self.limit, &self.costs, &[]);
    }
}

impl<B> fmt::Debug for FleetPace<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetPace")
            .field("process", &self.fleet.process)
            .field("processes", &self.fleet.processes)
            .finish_non_exhaustive()
    }
}

async fn beat<B: RateBackend>(fleet: Weak<RateFleet<B>>) {
    loop {
        let Some(fleet) = fleet.upgrade() else { return };
        if let Ok(processes) = fleet.backend.beat(fleet.process, BEAT_TTL).await {
            fleet.processes.store(processes.max(1), Relaxed);
        }
        drop(fleet);
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

fn taken(cost: &RateCost) -> TakenRate {
    TakenRate { name: cost.name().into(), cost: cost.cost(), burst: cost.burst(), level: cost.level() }
}

/// The correction of each rate: positive if more was used than reserved.
fn changes(reserved: &[RateCost], used: &[RateCost]) -> Vec<(String, i64)> {
    let micros = |cost: Duration| i64::try_from(cost.as_micros()).unwrap_or(i64::MAX);
    let of = |reserved: &RateCost| {
        let used = used.iter().find(|used| used.name() == reserved.name()).map_or(Duration::ZERO, RateCost::cost);
        (reserved.name().to_owned(), micros(used).saturating_sub(micros(reserved.cost())))
    };
    reserved.iter().map(of).filter(|(_, change)| *change != 0).collect()
}
