//! Pauses shared by processes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_buttress::store::Fingerprint;
use tower_buttress::{PacePeers, PeerLimit, PeerPause};

use crate::backend::{PauseBackend, PauseNews, Process};
use crate::client::Redis;
use crate::driver::{Driver, Subscribing, Updates};

/// Shares the pauses of a [`PaceLayer`](tower_buttress::PaceLayer) with other processes: after a 429 in one process
/// the others do not meet one.
///
/// ```
/// use std::sync::Arc;
/// use tower_buttress::PaceLayer;
/// use tower_buttress_redis::{FleetPauses, Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// let pace = PaceLayer::new().share(Arc::new(FleetPauses::new(redis)));
/// # let _ = pace;
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *A call is made*: nothing. No call waits for Redis.
/// - *An upstream answers 429 and says how long to wait, or two tenants meet one*: within milliseconds the calls with
///   the same credential to the same host wait in every process, for as long. A pause is never shortened.
/// - *The pause ends*: if the upstream asked for more than a process waits, or did not say how long, one call per
///   process probes, and the others wait for its head. Each process then starts at the rate at which its own calls
///   were served before, so that the fleet returns to its earlier rate.
/// - *A process starts*: it reads each credential's pause at its first use.
/// - *Redis is unreachable*: each process learns of a 429 by itself.
///
/// **Rates** ([`requests`](tower_buttress::PaceLayer::requests), [`tokens`](tower_buttress::PaceLayer::tokens)) apply
/// per process: give each process its share of the upstream's limit, or use [`FleetPace`](crate::FleetPace).
pub struct FleetPauses<B = Redis> {
    backend: B,
    process: Process,
    updates: Updates<Update>,
}

/// A message from the layer to the task.
enum Update {
    New(PeerLimit),
    Paused(PeerLimit, PeerPause),
}

struct PauseDriver<B> {
    backend: B,
    process: Process,
    limits: HashMap<Fingerprint, Vec<PeerLimit>>,
    /// Pauses that are being read (`None`: reported), limits that wait to be read, and pauses that wait to be reported.
    asking: JoinSet<Option<(Fingerprint, PeerPause)>>,
    waiting: HashSet<Fingerprint>,
    untold: HashMap<Fingerprint, UnsentPause>,
}

/// A pause that Redis does not know yet.
struct UnsentPause {
    ends: Instant,
    finds_out: bool,
}

/// Limits the concurrent operations.
const MOST_ASKED: usize = 64;

// === impl FleetPauses ===

impl<B: PauseBackend> FleetPauses<B> {
    /// The pauses on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, process: Process::random(), updates: Updates::new() }
    }

    fn update(&self, update: Update) {
        let (backend, process) = (self.backend.clone(), self.process);
        // If the task cannot take it, other processes learn of the pause from the upstream, as in an outage.
        let _ = self.updates.send(update, || PauseDriver::new(backend, process));
    }
}

impl<B: PauseBackend> PacePeers for FleetPauses<B> {
    fn on_new(&self, limit: PeerLimit) {
        self.update(Update::New(limit));
    }

    fn on_pause(&self, limit: PeerLimit, pause: PeerPause) {
        self.update(Update::Paused(limit, pause));
    }
}

impl<B> fmt::Debug for FleetPauses<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetPauses").field("process", &self.process).finish_non_exhaustive()
    }
}

// === impl Limits ===

impl<B: PauseBackend> Driver for PauseDriver<B> {
    type Update = Update;

    fn subscribe(&self) -> Subscribing {
        let backend = self.backend.clone();
        Box::pin(async move { backend.pause_news().await })
    }

    fn on_update(&mut self, update: Update) {
        match update {
            Update::New(limit) => self.on_new(limit),
            Update::Paused(limit, pause) => self.on_paused(&limit, pause),
        }
    }

    fn on_news(&mut self, news: Bytes, _: Instant) {
        if let Some(news) = PauseNews::decode(news).filter(|news| news.process != self.process) {
            self.pause(&news.limit, news.pause);
        }
    }

    async fn on_gap(&mut self) {
        self.waiting.extend(self.limits.keys());
        self.ask();
    }

    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.asking.poll_join_next(cx) {
            Poll::Ready(Some(Ok(read))) => {
                if let Some((id, pause)) = read {
                    self.pause(&id, pause);
                }
                self.ask();
                Poll::Ready(())
            }
            // None is in flight. (The error of a join is a panic, and these tasks do not panic.)
            Poll::Ready(_) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<B: PauseBackend> PauseDriver<B> {
    fn new(backend: B, process: Process) -> Self {
        let (limits, waiting, untold) = (HashMap::new(), HashSet::new(), HashMap::new());
        Self { backend, process, limits, asking: JoinSet::new(), waiting, untold }
    }

    fn on_new(&mut self, limit: PeerLimit) {
        self.limits.retain(|_, limits| {
            limits.retain(PeerLimit::is_alive);
            !limits.is_empty()
        });
        let id = *limit.id();
        self.limits.entry(id).or_default().push(limit);
        self.waiting.insert(id);
        self.ask();
    }

    fn on_paused(&mut self, limit: &PeerLimit, pause: PeerPause) {
        let limit = *limit.id();
        // Other layers of this process may use the same credential.
        self.pause(&limit, pause);
        let ends = Instant::now() + pause.wait;
        if self.untold.get(&limit).is_none_or(|known| known.ends < ends) {
            self.untold.insert(limit, UnsentPause { ends, finds_out: pause.finds_out });
        }
        self.ask();
    }

    /// Reports pauses, and reads those of waiting limits, as many as allowed.
    fn ask(&mut self) {
        let room = MOST_ASKED.saturating_sub(self.asking.len());
        for limit in self.untold.keys().take(room).copied().collect::<Vec<_>>() {
            let Some(UnsentPause { ends, finds_out }) = self.untold.remove(&limit) else { continue };
            let pause = PeerPause::new(ends.saturating_duration_since(Instant::now()), finds_out);
            let (backend, news) = (self.backend.clone(), PauseNews { limit, pause, process: self.process });
            // Goes on if the layer is dropped.
            let sending = tokio::spawn(async move { backend.pause(news).await });
            self.asking.spawn(async move {
                let _ = sending.await;
                None
            });
        }
        let room = MOST_ASKED.saturating_sub(self.asking.len());
        for id in self.waiting.iter().take(room).copied().collect::<Vec<_>>() {
            self.waiting.remove(&id);
            let backend = self.backend.clone();
            self.asking.spawn(async move { Some((id, backend.paused(id).await.ok()?)) });
        }
    }

    fn pause(&self, id: &Fingerprint, pause: PeerPause) {
        if !pause.wait.is_zero() {
            self.limits.get(id).into_iter().flatten().for_each(|limit| limit.pause(pause));
        }
    }
}
