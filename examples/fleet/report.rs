//! Prints and checks the figures.

use std::fmt::Write as _;
use std::time::Duration;

use tower_buttress::error::BoxError;

/// One fleet's result.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Upstream calls for a double click.
    pub(crate) per_click: f64,
    /// Calls that seven machines refused while the network of the eighth was bad, and the number of their calls.
    pub(crate) refused: u32,
    pub(crate) asked: u32,
    /// How often their circuits opened.
    pub(crate) opened: u32,
    /// 429s after the first.
    pub(crate) limited: u32,
    /// Calls that reached a dead provider until the circuits were open.
    pub(crate) dead: u32,
    /// Calls that reached it afterwards.
    pub(crate) probes: u32,
    /// Probes from the provider's recovery until all circuits are closed, and how long that takes.
    pub(crate) recovery_probes: u32,
    pub(crate) recovered: Duration,
}

/// Durations of calls, to the end of their answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
}

/// Calls during an outage of Redis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    /// The slowest of the first calls.
    pub(crate) slowest: Duration,
    pub(crate) waited: usize,
    pub(crate) later: Times,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Outages {
    pub(crate) frozen: Outage,
    pub(crate) dead: Outage,
}

/// One row per figure, one column per fleet.
pub(crate) fn table(alone: &Figures, shared: &Figures) -> String {
    type Figure = (&'static str, fn(&Figures) -> String);
    let figures: [Figure; 8] = [
        ("upstream calls for a double click on two machines", |of| format!("{:.2}", of.per_click)),
        ("429s after the first", |of| of.limited.to_string()),
        ("calls into a dead provider, until the circuits are open", |of| of.dead.to_string()),
        ("calls into it from then on: probes", |of| of.probes.to_string()),
        ("probes when it is back, until all circuits are closed", |of| of.recovery_probes.to_string()),
        ("how long that takes", |of| format!("{:.2} s", of.recovered.as_secs_f64())),
        ("one machine's network is bad: calls that the others refuse", |of| format!("{} of {}", of.refused, of.asked)),
        ("circuits that it opens on the others", |of| of.opened.to_string()),
    ];
    let mut table = format!("| {:<58} | {:>15} | {:>15} |\n", "eight gateways", "each on its own", "sharing a Redis");
    let _ = writeln!(table, "|{:-<60}|{:->16}:|{:->16}:|", "", "", "");
    for (name, figure) in figures {
        // Writing into a string cannot fail.
        let _ = writeln!(table, "| {name:<58} | {:>15} | {:>15} |", figure(alone), figure(shared));
    }
    table
}

/// The durations of calls, without a Redis and with one in each of its states.
pub(crate) fn times([alone, shared]: &[Times; 2], Outages { frozen, dead }: &Outages) -> String {
    let time = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1_000.0);
    let mut table =
        format!("| {:<17} | {:>7} | {:>7} | {:>30} |\n", "a call", "p50", "p99", "the first ten when it is lost");
    let _ = writeln!(table, "|{:-<19}|{:->8}:|{:->8}:|{:->31}:|", "", "", "", "");
    let mut row = |name: &str, times: &Times, first: Option<&Outage>| {
        let first =
            first.map_or_else(String::new, |first| format!("{} waited, {} at most", first.waited, time(first.slowest)));
        let _ = writeln!(table, "| {name:<17} | {:>7} | {:>7} | {first:>30} |", time(times.median), time(times.p99));
    };
    row("without a Redis", alone, None);
    row("Redis is well", shared, None);
    row("Redis is frozen", &frozen.later, Some(frozen));
    row("Redis is dead", &dead.later, Some(dead));
    table
}

/// Checks that hold on a busy machine too.
pub(crate) fn check(alone: &Figures, shared: &Figures) -> Result<(), BoxError> {
    if shared.per_click > 1.2 {
        return Err(format!("{:.2} upstream calls for a double click", shared.per_click).into());
    }
    if shared.refused > 0 || shared.opened > 0 {
        return Err("one machine's bad network closed the provider to others".into());
    }
    if shared.probes >= alone.probes || shared.limited >= alone.limited {
        return Err("sharing gained nothing".into());
    }
    Ok(())
}
