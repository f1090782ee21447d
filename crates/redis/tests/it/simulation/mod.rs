//! Processes of a fleet that share the model of Redis, between them a network that loses, delays and repeats, and an engine
//! that fails: what the layers promise holds in every history.
//!
//! Each history is drawn from its seed, in virtual time. One that breaks a promise is printed. More of them, or one again:
//!
//! ```sh
//! SIMULATION_SEEDS=1..10001 cargo test --release -p tower-buttress-redis --all-features --test it simulation
//! ```

mod answers;
mod circuits;
mod conversations;
mod history;
mod nemesis;
mod network;
mod orders;
mod rates;
mod returns;
mod stale;

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use self::history::History;
use self::nemesis::Faults;

const MS: Duration = Duration::from_millis(1);

/// How many histories there are of each kind, unless the environment names others.
const SEEDS: Range<u64> = 1..501;

fn seeds() -> Range<u64> {
    let Ok(seeds) = std::env::var("SIMULATION_SEEDS") else { return SEEDS };
    let (from, to) = seeds.split_once("..").expect("SIMULATION_SEEDS=from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Runs a history for each seed, each in a runtime of its own whose time is virtual.
fn run<F: Future<Output = ()>>(world: &str, history: impl Fn(History, Rng, Faults) -> F) {
    for seed in seeds() {
        // Libraries below draw from the generator of the thread.
        fastrand::seed(seed);
        let mut rng = Rng::with_seed(seed);
        let faults = Faults::draw(seed, &mut rng);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let told = runtime.block_on(async {
            let told = History::new(format!("{world}, seed {seed}: {faults:?}"));
            history(told.clone(), rng, faults).await;
            told
        });
        drop(runtime);
        told.judge();
    }
}

/// A time between these, in milliseconds; short ones are as likely as long ones.
fn time(rng: &mut Rng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64((from.ln() + rng.f64() * (to.ln() - from.ln())).exp() / 1_000.0)
}
