//! Sends the same calls to the same faulty provider without layers, with common ones, and with this crate's.
//!
//! ```sh
//! cargo run --release --example proof
//! ```
//!
//! All contestants run at the same time, each with its own provider and backup, which draw the same faults for the
//! same call. Time is compressed: 1 s stands for 20 s. `faults` has the mix, `clients` the contestants, `callers` the
//! calls and the judgement against `answers`, where the providers' answers are recorded. `limited` has the second
//! part, a provider with a rate limit, and `outage` the third, where nothing answers for a while.

mod answers;
mod callers;
mod chart;
mod clients;
mod faults;
mod limited;
mod outage;
mod report;
mod scale;

use std::path::PathBuf;

use clap::Parser;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tower_buttress::error::BoxError;

use self::callers::Load;
use self::clients::Contestant;
use self::faults::Upstreams;
use self::report::Row;

/// Counts the faults that reach the caller.
#[derive(Clone, Debug, Parser)]
#[command(name = "proof", version)]
struct Args {
    /// Make this many calls, one in 20 of them a double click.
    #[arg(long, value_name = "N", default_value = "2000")]
    calls: u32,

    /// Start this many calls per second.
    #[arg(long, value_name = "N", default_value = "80")]
    rate: u32,

    /// Seed the faults.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Write the chart to this file.
    #[arg(long, value_name = "FILE", default_value = "target/proof.svg")]
    chart: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let load = Load { calls: args.calls.max(1), rate: args.rate.max(1) };
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:>18} {bar:40} {pos}/{len} calls, {msg}")?;

    let mut runs = Vec::new();
    for contestant in Contestant::ALL {
        let upstreams = Upstreams::start(args.seed, &load, contestant == Contestant::Restarting).await?;
        let client = contestant.client(&upstreams)?;
        let bar = bars.add(ProgressBar::new(load.requests().into()).with_style(style.clone()));
        bar.set_prefix(contestant.name());
        runs.push(tokio::spawn(async move {
            let tally = callers::run(client, load, &upstreams.answers, &bar).await;
            bar.finish();
            Row::new(contestant, &tally, &upstreams.ledger)
        }));
    }
    let mut rows = Vec::new();
    for run in runs {
        rows.push(run.await?);
    }

    println!("\n{}", report::table(&rows));
    println!("{}", limited::run().await?);
    println!("{}", outage::run().await?);
    chart::write(&args.chart, &rows)?;
    println!("The chart is in {}.", args.chart.display());
    report::check(&rows)?;
    Ok(())
}
