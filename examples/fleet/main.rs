//! Compares eight gateways without a shared Redis and eight with one.
//!
//! ```sh
//! cargo run --release --example fleet
//! ```
//!
//! Each gateway is a process. Both fleets meet the same events at the same time, each with its own provider: callers
//! click twice on two machines; the network of one machine is bad; the provider limits a credential; it dies and
//! recovers. Then Redis is suspended, and killed. Needs `redis-server` (`apt-get install redis-server`).
//!
//! `scenes` has the events, `stage` the provider, `member` the gateways, `report` the output.

mod chart;
mod member;
mod report;
mod scenes;
#[path = "../../crates/gateway/tests/it/fleet/server.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod server;
mod stage;

use std::path::PathBuf;

use clap::Parser;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::try_join;
use tower_buttress::error::BoxError;

use self::member::Fleet;
use self::scenes::Lengths;
use self::server::Server;
use self::stage::Stage;

/// Compares a fleet that shares a Redis with one that does not.
#[derive(Clone, Debug, Parser)]
#[command(name = "fleet", version)]
struct Args {
    /// Make a quarter of the calls.
    #[arg(long)]
    short: bool,

    /// Seed the random choice of machines.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Write the chart to this file.
    #[arg(long, value_name = "FILE", default_value = "target/fleet.svg")]
    chart: PathBuf,
}

fn main() -> Result<(), BoxError> {
    if member::is_one() {
        std::process::exit(tower_buttress_gateway::run(std::env::args_os()).into());
    }
    tokio::runtime::Runtime::new()?.block_on(compare(&Args::parse()))
}

async fn compare(args: &Args) -> Result<(), BoxError> {
    let lengths = if args.short { Lengths::SHORT } else { Lengths::WHOLE };
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:>16} {bar:40} {pos}/{len} calls, {msg}")?;
    let bar =
        |name: &'static str, calls: u64| bars.add(ProgressBar::new(calls).with_style(style.clone()).with_prefix(name));
    let mut redis = Server::start(&[])?;
    let (alone_before, shared_before) = (Stage::start().await?, Stage::start().await?);
    let alone = Fleet::start(&alone_before, None, args.seed, bar("each on its own", lengths.calls())).await?;
    let url = redis.url();
    let with_outages = lengths.calls() + lengths.outage_calls();
    let shared = Fleet::start(&shared_before, Some(&url), args.seed, bar("sharing a Redis", with_outages)).await?;

    // Runs alone, because it measures milliseconds.
    let healthy = [scenes::one_by_one(&alone, &lengths).await?, scenes::one_by_one(&shared, &lengths).await?];
    let (alone_has, shared_has) =
        try_join!(scenes::play(&alone, &alone_before, &lengths), scenes::play(&shared, &shared_before, &lengths))?;
    alone.bar.finish_with_message("done");
    let outages = scenes::outages(&shared, &mut redis, &lengths).await?;
    shared.bar.finish_with_message("done");

    println!("\n{}\n{}", report::table(&alone_has, &shared_has), report::times(&healthy, &outages));
    chart::write(&args.chart, &alone_has, &shared_has)?;
    println!("The chart is in {}.", args.chart.display());
    report::check(&alone_has, &shared_has)
}
