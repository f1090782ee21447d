//! What goes wrong.

use std::time::Duration;

use fastrand::Rng;
use tower_buttress_redis::RedisModel;

use super::history::History;
use super::network::Way;
use super::{MS, time};

/// How much goes wrong in a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// How many of a hundred operations are lost, answered in vain, or done twice.
    pub(super) operations: u32,
    /// How many times the network or the engine fails.
    pub(super) events: u32,
}

/// The engine and the ways of all processes to it.
#[derive(Clone)]
pub(super) struct Nemesis {
    pub(super) model: RedisModel,
    pub(super) ways: Vec<Way>,
    pub(super) history: History,
}

// === impl Faults ===

impl Faults {
    pub(super) fn draw(seed: u64, rng: &mut Rng) -> Self {
        match seed % 5 {
            0 => Self { operations: 0, events: 0 },
            1 => Self { operations: rng.u32(1..10), events: 0 },
            2 => Self { operations: 0, events: rng.u32(1..3) },
            3 => Self { operations: rng.u32(1..5), events: rng.u32(1..5) },
            _ => Self { operations: rng.u32(5..30), events: rng.u32(5..15) },
        }
    }

    /// Nothing fails.
    pub(super) fn none(self) -> bool {
        self.operations == 0 && self.events == 0
    }
}

// === impl Nemesis ===

impl Nemesis {
    /// Lets as many things fail within this time.
    pub(super) fn begin(self, mut rng: Rng, events: u32, within: Duration) {
        for _ in 0..events {
            let (at, nemesis) = (within.mul_f64(rng.f64()), self.clone());
            let rng = rng.fork();
            tokio::spawn(async move {
                tokio::time::sleep(at).await;
                nemesis.fail(rng).await;
            });
        }
    }

    async fn fail(self, mut rng: Rng) {
        let Self { model, ways, history } = self;
        let process = rng.usize(..ways.len());
        let way = &ways[process];
        match rng.u32(..100) {
            0..35 => {
                let lasts = time(&mut rng, 20.0, 20_000.0);
                history.fault(lasts, format!("process {process} is cut off for {lasts:.1?}"));
                way.cut(lasts).await;
            }
            35..50 => {
                let lasts = time(&mut rng, 20.0, 8_000.0);
                history.fault(lasts, format!("Redis cannot be reached for {lasts:.1?}"));
                model.set_reachable(false);
                tokio::time::sleep(lasts).await;
                model.set_reachable(true);
                history.say("Redis can be reached".into());
            }
            50..62 => {
                history.fault(Duration::ZERO, "Redis is restarted, empty".into());
                model.restart();
            }
            62..78 => {
                let (replica, behind) = (model.checkpoint(), time(&mut rng, 5.0, 1_000.0));
                // From when on the writes are lost.
                history.fault(behind, format!("the replica lags behind, {behind:.1?} before a failover"));
                tokio::time::sleep(behind).await;
                history.say("failover".into());
                model.fail_over(replica);
            }
            78..88 => {
                let by = time(&mut rng, 100.0, 15_000.0);
                if rng.bool() {
                    history.fault(Duration::ZERO, format!("the clock of Redis jumps by {by:.1?}"));
                    model.jump(by);
                } else {
                    history.jump_back(&model, 100 * by);
                }
            }
            _ => {
                // It does nothing any more, and nothing comes back from it.
                history.fault(20 * MS, format!("process {process} crashes"));
                way.crash();
            }
        }
    }
}
