//! The same calls against the same faulty provider: bare, with the layers people use today, and with this crate's.
//!
//! ```sh
//! cargo run --release --example proof
//! ```
//!
//! All of them run at the same time, each with a provider and a backup of its own, which draw the same faults for the
//! same call. Time is compressed: one second here is twenty. `faults` has the mix, `clients` who takes part, `callers`
//! what is asked and how an answer is judged: against `answers`, where the providers' are written down. Then those who have
//! limits of rates meet a provider that has one: `limited`. Last, nothing answers for a while: `outage`.

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

/// Compares what is left of a fault by the time it reaches the caller.
#[derive(Clone, Debug, Parser)]
#[command(name = "proof", version)]
struct Args {
    /// How many calls, one in twenty of them clicked twice.
    #[arg(long, value_name = "N", default_value = "2000")]
    calls: u32,

    /// How many of them begin in a second.
    #[arg(long, value_name = "N", default_value = "80")]
    rate: u32,

    /// Where the faults begin to be drawn.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Where to write the chart.
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
