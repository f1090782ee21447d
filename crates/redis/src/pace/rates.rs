//! Rates that the processes of a fleet share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tower_buttress::{PacePeers, PeerLimit, PeerPause, PeerReserving, PeerTurn, RateCost};

use super::pauses::FleetPauses;
use crate::backend::{PauseBackend, Process, RateBackend, RateTurn, TakenRate, Token};
use crate::client::Redis;

/// Shares the pauses and the rates of a [`PaceLayer`](tower_buttress::PaceLayer) with those of other processes: a rate
/// is that of all of them together.
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
/// - *A call is made that a rate counts*: one script takes what it needs from all of its rates, or from none, and says
///   when it is sent. Calls are sent in the order in which they asked, whichever process they are of. One whose turn would be
///   more than a second away is not given it yet: it waits in its process, tenants in turn, and the first of those asks again.
///   One that would have to wait for longer than [`max_wait`](tower_buttress::PaceLayer::max_wait) is refused, as far as its
///   process can tell when it comes: how many wait in the others is seen by how far apart its own turns are.
/// - *It has used less than was reserved, or more, or was not sent*: that is corrected, behind it. What a caller gives back
///   that goes away while it waits is for calls that come then: they may be sent together with those that waited behind it.
/// - *An upstream answers 429*: as with [`FleetPauses`]. Calls start again one interval of the rate apart, in the fleet. Those
///   whose turns fall into the pause take other ones, behind it.
/// - *Redis cannot be reached*: each process has its part of every rate. How many processes there are is known from the
///   last time that Redis was reached: each says every 5 s that it is there. Until then it is
///   [`processes`](Self::processes).
/// - *An answer says that less is left of a rate* (other clients use it, too): the next call of the process that was told waits for
///   as long as that takes, and those of the others behind it.
/// - *Redis forgets the rates* (it was restarted): each process tells with its next call what it knows itself.
///
/// The rates of a caller ([`PaceLayer::per_caller`](tower_buttress::PaceLayer::per_caller)) are those of all processes, too, by
/// its tenant or, where there is none, its credentials. A layer without rates shares its pauses only. Limits that are
/// [learned](tower_buttress::PaceLayer::learn) are those of each process.
///
/// # Cost
///
/// A script before each call that a rate counts, or a few where calls wait, within the [`patience`](crate::RedisOptions::patience) of Redis, and
/// one behind it where tokens are counted.
pub struct FleetPace<B = Redis> {
    pauses: FleetPauses<B>,
    fleet: Arc<RateFleet<B>>,
}

struct RateFleet<B> {
    backend: B,
    process: Process,
    /// How many processes there are, as far as is known.
    processes: AtomicU32,
    beats: AtomicBool,
}

const BEAT_EVERY: Duration = Duration::from_secs(5);

/// A process that is not heard of for this long is gone.
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

    /// How many processes there are, until Redis has said so: a process that starts while Redis is away has its part of
    /// the rates. Default: 1.
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
            let (told, turn) = oneshot::channel();
            let asked = fleet.clone();
            // In a task of its own: where the call is dropped meanwhile, what was taken for it is given back.
            tokio::spawn(async move {
                let taken = costs.iter().map(taken).collect();
                let turn = asked.backend.reserve(id, Token::random(), taken, pause, max_wait).await;
                let is_taken = matches!(turn, Ok(RateTurn::Taken(_)));
                if told.send(turn).is_err() && is_taken {
                    let _ = asked.backend.refund(id, Token::random(), changes(&costs, &[])).await;
                }
            });
            match turn.await {
                Ok(Ok(RateTurn::Taken(wait))) => PeerTurn::Go { wait },
                Ok(Ok(RateTurn::TooLong(wait))) => PeerTurn::TooLong { wait },
                Ok(Err(_)) | Err(_) => PeerTurn::Alone { processes: fleet.processes.load(Relaxed) },
            }
        })
    }

    fn settle(&self, limit: PeerLimit, reserved: Vec<RateCost>, used: Vec<RateCost>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let changes = changes(&reserved, &used);
        if !changes.is_empty() {
            let fleet = self.fleet.clone();
            runtime.spawn(async move { fleet.backend.refund(*limit.id(), Token::random(), changes).await });
        }
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

/// By how much each rate is to be corrected: more than zero where more was used than was reserved.
fn changes(reserved: &[RateCost], used: &[RateCost]) -> Vec<(String, i64)> {
    let micros = |cost: Duration| i64::try_from(cost.as_micros()).unwrap_or(i64::MAX);
    let of = |reserved: &RateCost| {
        let used = used.iter().find(|used| used.name() == reserved.name()).map_or(Duration::ZERO, RateCost::cost);
        (reserved.name().to_owned(), micros(used).saturating_sub(micros(reserved.cost())))
    };
    reserved.iter().map(of).filter(|(_, change)| *change != 0).collect()
}
