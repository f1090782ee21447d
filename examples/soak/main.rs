//! A thousand streams through two gateways, for as long as one likes, and no byte may be wrong.
//!
//! ```sh
//! cargo run --release --example soak -- 1h
//! ```
//!
//! The gateways are processes of their own that share a Redis. The provider fails one call in eight, callers leave, come back
//! and click twice, the gateways read their configuration again (now and then a file that was cut off), and the Redis is killed
//! or suspended. Each stream is compared with what the provider wrote as one answer. Memory and descriptors of the gateways are
//! looked at at the start, in the middle, at the end, and when the callers have gone. It needs Linux and `redis-server`
//! (`apt-get install redis-server`).
//!
//! `answers` has what the provider says, `provider` what goes wrong there, `callers` who asks, `gateways` the processes, `disturbances`
//! what else happens, `report` what is shown and when it fails.

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
    /// How long: `5m`, `1h`.
    #[arg(value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    time: Duration,

    /// How many callers there are at a time.
    #[arg(long, value_name = "N", default_value = "1000")]
    callers: usize,

    /// The time between two events of a stream, on average.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    gap: Duration,
}

/// What fills up first (kept answers, pools) has done so by then.
const WARM_UP: Duration = Duration::from_secs(75);

/// Connections at rest are closed within this time.
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
        // The other processes end with what is dropped here.
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
        // What they disturbed last is put right, or has no callers any more.
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
