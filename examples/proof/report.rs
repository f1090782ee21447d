//! Prints and checks the figures.

use std::fmt::Write as _;
use std::time::Duration;

use tower_buttress::error::BoxError;

use super::callers::Tally;
use super::clients::Contestant;
use super::faults::{Fault, Ledger};

/// One contestant's result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) contestant: Contestant,
    pub(crate) requests: u32,
    pub(crate) whole: usize,
    pub(crate) failed: u32,
    pub(crate) cut: u32,
    pub(crate) taken_for_whole: u32,
    pub(crate) mixed: u32,
    pub(crate) unchanged: u32,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) per_answer: f64,
    pub(crate) billed_again: usize,
    pub(crate) billed_needlessly: usize,
    /// For each of [`HARD`]: how many calls met it, and how many of those were answered whole.
    pub(crate) met: [(usize, usize); 4],
}

/// Faults that a client's retry cannot fix, with the names of their rows.
const HARD: [(Fault, &str); 4] = [
    (Fault::EndsEarly, "whole, behind an early end"),
    (Fault::ErrorFirst, "whole, behind a 200 error"),
    (Fault::QuotaSpent, "whole, a quota was spent"),
    (Fault::PromptTooLong, "whole, prompt was too long"),
];

/// Twice the provider's time for an answer. If the median is longer, the machine is too busy to tell how many answers
/// were lost.
const SLOW: Duration = Duration::from_millis(500);

// === impl Row ===

impl Row {
    pub(crate) fn new(contestant: Contestant, tally: &Tally, ledger: &Ledger) -> Self {
        let mut whole = tally.whole.clone();
        whole.sort_unstable();
        let at = |percent: usize| whole.get(whole.len() * percent / 100).copied().unwrap_or_default();
        Self {
            contestant,
            requests: tally.requests,
            whole: whole.len(),
            failed: tally.failed,
            cut: tally.cut,
            taken_for_whole: tally.taken_for_whole,
            mixed: tally.mixed,
            unchanged: tally.unchanged,
            median: at(50),
            p99: at(99),
            per_answer: f64::from(ledger.arrivals()) / whole.len().max(1) as f64,
            billed_again: ledger.billed_again(),
            billed_needlessly: ledger.billed_needlessly(contestant == Contestant::Resuming),
            met: HARD.map(|(fault, _)| ledger.met(fault, &tally.unserved)),
        }
    }

    /// Checks the promises of our layers: callers hold only text that a provider sent, no cut answer passes as whole,
    /// streams that could continue did, and no call was billed again without need.
    fn check(&self) -> Result<(), BoxError> {
        let goes_on = match self.contestant {
            Contestant::Buttress => false,
            Contestant::Resuming | Contestant::Restarting => true,
            _ => return Ok(()),
        };
        let broken = |what: String| Err(format!("{}: {what}", self.contestant.name()).into());
        if self.mixed > 0 {
            return broken(format!("{} texts are not those of one whole answer", self.mixed));
        }
        if self.taken_for_whole > 0 {
            return broken(format!("{} answers that were cut pass for whole", self.taken_for_whole));
        }
        let changed = self.changed();
        // A restart rewrites the event at the seam.
        if changed > 0 && self.contestant != Contestant::Restarting {
            return broken(format!("{changed} whole answers have other bytes than the provider sent"));
        }
        if self.median > SLOW {
            // Timeouts ended healthy calls.
            return Ok(());
        }
        if goes_on && self.cut > (self.requests / 1_000).max(1) {
            return broken(format!("{} answers were cut", self.cut));
        }
        // A caller whose answer was cut for good may have clicked once more.
        if self.billed_needlessly > self.cut as usize {
            return broken(format!("{} calls were billed twice for nothing", self.billed_needlessly));
        }
        Ok(())
    }

    /// Whole answers with the provider's text but other bytes.
    fn changed(&self) -> u32 {
        u32::try_from(self.whole).unwrap_or(u32::MAX).saturating_sub(self.unchanged)
    }

    /// `count` in percent of all requests.
    pub(crate) fn percent(&self, count: u32) -> f64 {
        100.0 * f64::from(count) / f64::from(self.requests.max(1))
    }
}

/// Checks each row, and that our layers without cursor and restart reported as many cut answers as the bare client
/// met: fewer would mean that some were lost. The provider draws a fault per arrival, so the two may differ by a few
/// per thousand.
pub(crate) fn check(rows: &[Row]) -> Result<(), BoxError> {
    rows.iter().try_for_each(Row::check)?;
    let row = |contestant| rows.iter().find(|row| row.contestant == contestant);
    let (Some(bare), Some(ours)) = (row(Contestant::Bare), row(Contestant::Buttress)) else { return Ok(()) };
    let (cut, truth) = (ours.cut, bare.cut + bare.taken_for_whole);
    if ours.median <= SLOW && cut + ours.requests / 200 + 1 < truth {
        return Err(format!("{cut} answers were cut, and {truth} of the bare client's: some were lost").into());
    }
    Ok(())
}

/// One row per figure, one column per contestant.
pub(crate) fn table(rows: &[Row]) -> String {
    let percent = |row: &Row, count| format!("{:.2} % ({count})", row.percent(count));
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    type Figure<'a> = (&'static str, Box<dyn Fn(&Row) -> String + 'a>);
    let mut figures: Vec<Figure<'_>> = vec![
        ("", Box::new(|row| row.contestant.name().to_owned())),
        ("failed before the first data", Box::new(move |row| percent(row, row.failed))),
        ("cut later, with an error", Box::new(move |row| percent(row, row.cut))),
        ("truncated, taken for whole", Box::new(move |row| percent(row, row.taken_for_whole))),
        ("mixed from several answers", Box::new(move |row| percent(row, row.mixed))),
        ("whole, in other bytes", Box::new(move |row| percent(row, row.changed()))),
        ("whole, byte for byte", Box::new(move |row| percent(row, row.unchanged))),
        ("whole answer, p50", Box::new(move |row| seconds(row.median))),
        ("whole answer, p99", Box::new(move |row| seconds(row.p99))),
        ("upstream calls per answer", Box::new(|row| format!("{:.2}", row.per_answer))),
        ("calls billed more than once", Box::new(|row| row.billed_again.to_string())),
    ];
    let met = HARD.iter().enumerate().map(|(nth, (_, name))| -> Figure<'_> {
        (*name, Box::new(move |row: &Row| format!("{} of {}", row.met[nth].1, row.met[nth].0)))
    });
    figures.splice(7..7, met);
    let mut table = String::new();
    for (nth, (name, figure)) in figures.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = write!(table, "| {name:<28} |");
        for row in rows {
            let _ = write!(table, " {:>17} |", figure(row));
        }
        table.push('\n');
        if nth == 0 {
            let _ = writeln!(table, "|{:-<30}|{}", "", format!("{:->18}:|", "").repeat(rows.len()));
        }
    }
    table
}
