//! Counts, prints and checks the results.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tower_buttress::error::BoxError;

use super::Args;
use super::answers::Held;
use super::gateways::Used;

/// The counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Whole answers with the provider's bytes.
    Whole,
    /// Broken answers that were recognisable as such.
    Broken,
    /// Calls without an answer.
    Refused,
    /// Callers that left.
    Left,
    /// Answers that callers came back to and got whole.
    CameBack,
    /// Answers that were gone when callers came back.
    Gone,
    /// Double clicks with one answer.
    OneAnswer,
    /// Double clicks with two answers.
    TwoAnswers,
    Wrong,
    Reloads,
    Outages,
}

const COUNTS: usize = 11;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    counts: [AtomicU64; COUNTS],
    first_wrong: Mutex<Option<String>>,
}

/// The resources of the gateways at each mark.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) idle: Used,
    pub(crate) used: Vec<Used>,
    pub(crate) rest: Used,
    pub(crate) asked: u64,
}

/// Limits of the growth of memory from the middle to the end, as percentage and in MiB: allocators do not return
/// everything.
const GROWTH: (u64, u64) = (120, 12);

// === impl Totals ===

impl Totals {
    pub(crate) fn add(&self, count: Count) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn held(&self, held: &Held) {
        match held {
            Held::Whole(_) => self.add(Count::Whole),
            Held::Broken => self.add(Count::Broken),
            Held::Wrong(what) => {
                self.add(Count::Wrong);
                self.first_wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| what.clone());
            }
        }
    }

    pub(crate) fn get(&self, count: Count) -> u64 {
        self.counts.get(count as usize).map_or(0, |counter| counter.load(Relaxed))
    }

    /// One line of progress.
    pub(crate) fn line(&self) -> String {
        let [whole, broken, refused, left, back, wrong] =
            [Count::Whole, Count::Broken, Count::Refused, Count::Left, Count::CameBack, Count::Wrong]
                .map(|count| self.get(count));
        format!("whole {whole}, broken {broken}, refused {refused}, left {left}, came back {back}, wrong {wrong}")
    }

    /// Ends the run at the first wrong byte.
    pub(crate) fn check(&self) -> Result<(), BoxError> {
        match &*self.first_wrong.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(wrong) => Err(format!("{} wrong answers; the first: {wrong}", self.get(Count::Wrong)).into()),
            None => Ok(()),
        }
    }
}

// === impl Figures ===

impl Figures {
    /// The table for the README.
    pub(crate) fn table(&self, totals: &Totals, args: &Args) -> String {
        let Self { idle, used, rest, asked } = self;
        let get = |count| totals.get(count);
        let mut text = format!(
            "{} callers for {}: {asked} calls at the provider, {} answers whole, {} broken off and told so, {} refused, {} callers left, \
             {} came back and had the rest ({} too late), {} double clicks with one answer ({} with two), {} reloads, {} outages of \
             Redis, {} wrong.\n\n| Gateway | |",
            args.callers,
            humantime::format_duration(args.time),
            get(Count::Whole),
            get(Count::Broken),
            get(Count::Refused),
            get(Count::Left),
            get(Count::CameBack),
            get(Count::Gone),
            get(Count::OneAnswer),
            get(Count::TwoAnswers),
            get(Count::Reloads),
            get(Count::Outages),
            get(Count::Wrong),
        );
        let columns = ["before", "start", "middle", "end", "without callers"];
        let all = || [idle].into_iter().chain(used).chain([rest]);
        for name in columns {
            text += &format!(" {name} |");
        }
        text += &format!("\n|---|---|{}\n", "---|".repeat(columns.len()));
        for (nth, name) in ["HTTP/1.1", "HTTP/2"].into_iter().enumerate() {
            let figures = |what: fn(&super::gateways::MemberUse) -> String| {
                all()
                    .filter_map(|used| used.members.get(nth))
                    .map(|used| format!(" {} |", what(used)))
                    .collect::<String>()
            };
            text += &format!("| {name} | memory, MiB |{}\n", figures(|used| used.memory.to_string()));
            text += &format!("| {name} | descriptors |{}\n", figures(|used| used.descriptors.to_string()));
        }
        text
    }

    pub(crate) fn check(&self, totals: &Totals) -> Result<(), BoxError> {
        totals.check()?;
        let Self { idle, used, rest, .. } = self;
        let [.., middle, end] = used.as_slice() else { return Err("it has not run to its end".into()) };
        for (middle, end) in middle.members.iter().zip(&end.members) {
            let most = middle.memory * GROWTH.0 / 100 + GROWTH.1;
            if end.memory > most {
                return Err(format!("memory grew from {} to {} MiB", middle.memory, end.memory).into());
            }
            if end.descriptors > middle.descriptors * 5 / 4 + 100 {
                return Err(format!("descriptors grew from {} to {}", middle.descriptors, end.descriptors).into());
            }
        }
        if !rest.has_come_to_rest(*idle) {
            return Err(format!("descriptors were not closed: {idle} before, {rest} without callers").into());
        }
        let [whole, broken, refused] = [Count::Whole, Count::Broken, Count::Refused].map(|count| totals.get(count));
        if [Count::CameBack, Count::OneAnswer, Count::Reloads].iter().any(|count| totals.get(*count) == 0) {
            return Err("no caller came back, no double click had one answer, or nothing was read again".into());
        }
        if whole < (broken + refused) * 2 {
            return Err("fewer than two thirds of the answers came whole".into());
        }
        Ok(())
    }
}
