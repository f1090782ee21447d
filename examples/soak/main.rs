//! Runs a thousand streams through two gateways for a chosen time; no byte may be wrong.
//!
//! ```sh
//! cargo run --release --example soak -- 1h
//! ```
//!
//! The gateways are processes that share a Redis. The provider fails one call in eight, callers leave, return and
//! click twice, the gateways reload their configuration (sometimes a truncated file), and Redis is killed or
//! suspended. Each stream is compared with the provider's answer. Memory and descriptors of the gateways are measured
//! at the start, in the middle, at the end, and after the callers have left. Needs Linux and `redis-server` (`apt-get
//! install redis-server`).
//!
//! `answers` has the provider's answers, `provider` its faults, `callers` the callers, `gateways` the processes,
//! `disturbances` the other events, `report` the output and the checks.

mod answers;
mod callers;
mod disturbances;
mod gateways;
mod provider;
mod report;
#[path = "../../crates/gateway/tests/it/fleet/server.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, sleep_until};
use tower_buttress::error::BoxError;

use self::callers::Callers;
use self::gateways::{Gateways, Used};
use self::provider::Provider;
use self::report::{Figures, Totals};
use self::server::Server;

/// Runs a thousand streams through two gateways, and compares every byte.
#[derive(Clone, Debug, Parser)]
#[command(name = "soak", version)]
struct Args {
    /// Run for this time, as `5m` or `1h`.
    #[arg(value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    time: Duration,

    /// Run this many callers at a time.
    #[arg(long, value_name = "N", default_value = "1000")]
    callers: usize,

    /// Send the events of a stream this far apart, on average.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    gap: Duration,
}

/// By then the caches and pools that grow first are full.
const WARM_UP: Duration = Duration::from_secs(75);

/// Idle connections close within this time.
const AT_REST: Duration = Duration::from_secs(100);

const LINE_EVERY: Duration = Duration::from_secs(10);

fn main() -> Result<(), BoxError> {
    if gateways::is_one() {
        std::process::exit(tower_buttress_gateway::run(std::env::args_os()).into());
    }
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Dropping these values ends the other processes.
        tokio::select! {
            done = soak(&args) => done,
            _ = terminate.recv() => Err("it was ended".into()),
            _ = interrupt.recv() => Err("it was ended".into()),
        }
    })
}

async fn soak(args: &Args) -> Result<(), BoxError> {
    gateways::check_limits(args.callers)?;
    let redis = Server::start(&[])?;
    let provider = Provider::start(args.gap).await?;
    let gateways = Arc::new(Gateways::start(provider.addr(), &redis.url(), args.gap)?);
    let totals = Arc::new(Totals::default());
    let idle = gateways.used()?;
    println!("{} callers, for {}", args.callers, humantime::format_duration(args.time));

    let began = Instant::now();
    let callers = Callers::start(args.callers, args.gap, &gateways, &totals);
    let reloads = tokio::spawn(disturbances::reloads(gateways.clone(), totals.clone()));
    let restarts = tokio::spawn(disturbances::restarts(redis, totals.clone()));
    let mut marks = [WARM_UP.min(args.time / 4), args.time / 2, args.time].into_iter().peekable();
    let mut used = Vec::<Used>::new();
    let mut next_line = LINE_EVERY;
    while let Some(mark) = marks.peek().copied() {
        let next = mark.min(next_line);
        sleep_until((began + next).into()).await;
        let now = gateways.used()?;
        if next == mark {
            marks.next();
            used.push(now);
        }
        if next == next_line {
            next_line += LINE_EVERY;
            println!("{:>6}  {}  {now}", humantime::format_duration(next).to_string(), totals.line());
        }
        totals.check()?;
        gateways.check()?;
    }
    for task in [reloads, restarts] {
        task.abort();
        // Repairs its last disturbance.
        let _ = task.await;
    }
    callers.stop().await;

    println!("the callers have gone");
    let gone = Instant::now();
    let mut rest = gateways.used()?;
    while !rest.has_come_to_rest(idle) && gone.elapsed() < AT_REST {
        sleep(Duration::from_secs(1)).await;
        rest = gateways.used()?;
    }
    let figures = Figures { idle, used, rest, asked: provider.asked() };
    println!("\n{}", figures.table(&totals, args));
    gateways.check()?;
    figures.check(&totals)
}
