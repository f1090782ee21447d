//! Pauses that the processes of a fleet share.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower_buttress::store::Fingerprint;
use tower_buttress::{PacePeers, PeerLimit};

use crate::backend::{Heard, PauseBackend, PauseNews, Process, Subscription};
use crate::client::Redis;

/// Shares the pauses of a [`PaceLayer`](tower_buttress::PaceLayer) with those of other processes: a 429 that one process
/// met keeps all others from meeting it.
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
/// - *A call is made*: nothing. Redis is never asked in a call.
/// - *An upstream answers 429 and says how long to wait, or two tenants meet one*: the calls with the same credential to the
///   same host wait in every process, as long as there, within milliseconds. A pause is never shortened.
/// - *The pause ends*: each process starts again at the rate at which its own calls were served before, so that the fleet
///   comes back at the rate of the fleet.
/// - *A process starts*: it asks once for each credential that it uses first.
/// - *Redis cannot be reached*: each process learns of a 429 by itself.
///
/// **Rates** ([`requests`](tower_buttress::PaceLayer::requests), [`tokens`](tower_buttress::PaceLayer::tokens)) are those of one
/// process, whether Redis is reached or not: give each process its part of what the upstream allows, or use [`FleetPace`](crate::FleetPace).
pub struct FleetPauses<B = Redis> {
    backend: B,
    process: Process,
    orders: OnceLock<mpsc::UnboundedSender<Order>>,
}

/// What a layer says.
enum Order {
    New(PeerLimit),
    Paused(PeerLimit, Duration),
}

struct Driver<B> {
    backend: B,
    process: Process,
    limits: HashMap<Fingerprint, Vec<PeerLimit>>,
    news: Option<Subscription>,
    subscribe_at: Instant,
}

/// Between two attempts to subscribe.
const SUBSCRIBE_EVERY: Duration = Duration::from_secs(5);

// === impl FleetPauses ===

impl<B: PauseBackend> FleetPauses<B> {
    /// The pauses on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, process: Process::random(), orders: OnceLock::new() }
    }

    /// Without a runtime nothing is shared.
    fn order(&self, order: Order) {
        if Handle::try_current().is_err() {
            return;
        }
        let orders = self.orders.get_or_init(|| {
            let (sender, orders) = mpsc::unbounded_channel();
            let (backend, process) = (self.backend.clone(), self.process);
            let subscribe_at = Instant::now();
            let driver = Driver { backend, process, limits: HashMap::new(), news: None, subscribe_at };
            tokio::spawn(driver.run(orders));
            sender
        });
        let _ = orders.send(order);
    }
}

impl<B: PauseBackend> PacePeers for FleetPauses<B> {
    fn on_new(&self, limit: PeerLimit) {
        self.order(Order::New(limit));
    }

    fn on_pause(&self, limit: PeerLimit, pause: Duration) {
        self.order(Order::Paused(limit, pause));
    }
}

impl<B> fmt::Debug for FleetPauses<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetPauses").field("process", &self.process).finish_non_exhaustive()
    }
}

// === impl Driver ===

impl<B: PauseBackend> Driver<B> {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            if self.news.is_none() && self.subscribe_at <= Instant::now() {
                self.news = self.backend.pause_news().await.ok();
                self.subscribe_at = Instant::now() + SUBSCRIBE_EVERY;
                self.look_at_all().await;
            }
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::New(limit)) => self.on_new(limit).await,
                    Some(Order::Paused(limit, pause)) => self.on_paused(&limit, pause).await,
                    None => return,
                },
                heard = next(&mut self.news) => match heard {
                    Some(Heard::Message(message)) => {
                        if let Some(news) = PauseNews::decode(message).filter(|news| news.process != self.process) {
                            self.pause(&news.limit, news.wait);
                        }
                    }
                    Some(Heard::Gap) => self.look_at_all().await,
                    None => self.news = None,
                },
                () = tokio::time::sleep_until(self.subscribe_at), if self.news.is_none() => {}
            }
        }
    }

    async fn on_new(&mut self, limit: PeerLimit) {
        self.limits.retain(|_, limits| {
            limits.retain(PeerLimit::is_alive);
            !limits.is_empty()
        });
        let id = *limit.id();
        self.limits.entry(id).or_default().push(limit);
        self.look(id).await;
    }

    async fn on_paused(&mut self, limit: &PeerLimit, wait: Duration) {
        let limit = *limit.id();
        // Other layers of this process with the same credential.
        self.pause(&limit, wait);
        let _ = self.backend.pause(PauseNews { limit, wait, process: self.process }).await;
    }

    async fn look(&self, id: Fingerprint) {
        if let Ok(wait) = self.backend.paused(id).await {
            self.pause(&id, wait);
        }
    }

    async fn look_at_all(&self) {
        for id in self.limits.keys() {
            self.look(*id).await;
        }
    }

    fn pause(&self, id: &Fingerprint, wait: Duration) {
        if !wait.is_zero() {
            self.limits.get(id).into_iter().flatten().for_each(|limit| limit.pause(wait));
        }
    }
}

async fn next(news: &mut Option<Subscription>) -> Option<Heard> {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}
