//! Prints the tables.

use std::fmt;
use std::time::Duration;

use super::proxies::Kind;

/// The cost of a call in each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs(Vec<f64>);

/// A table for a README.
#[derive(Debug)]
pub(crate) struct Table(String);

// === impl Costs ===

impl Costs {
    pub(crate) fn add(&mut self, took: Duration, calls: u64) {
        self.0.push(took.as_secs_f64() * 1e6 / calls as f64);
    }

    /// In microseconds; `None`: not measured.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new(title: &str, kinds: &[Kind]) -> Self {
        let names: String = kinds.iter().map(|kind| format!(" {} |", kind.name())).collect();
        Self(format!("| {title} |{names}\n|---|{}", "---|".repeat(kinds.len())))
    }

    /// Each cost, and its ratio to the first.
    pub(crate) fn row(&mut self, name: &str, micros: Vec<Option<f64>>) {
        let bare = micros.first().copied().flatten();
        let show = |micros: f64| match bare {
            Some(bare) if bare != micros => format!("{micros:.1} µs, {:.2} x", micros / bare),
            _ => format!("{micros:.1} µs"),
        };
        self.cells(name, micros, show);
    }

    pub(crate) fn memory(&mut self, name: &str, mib: Vec<Option<f64>>) {
        self.cells(name, mib, |mib| format!("{mib:.0}"));
    }

    fn cells(&mut self, name: &str, values: Vec<Option<f64>>, show: impl Fn(f64) -> String) {
        let cells: String = values.into_iter().map(|value| format!(" {} |", value.map_or("-".into(), &show))).collect();
        self.0 += &format!("\n| {name} |{cells}");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
