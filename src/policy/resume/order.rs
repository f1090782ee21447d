//! Checks that a cursor is the next one.
//!
//! Most servers number their events: then a gap or a repetition is visible. Other cursors are names, where only a
//! repetition is. The server shows which kind it uses before its stream breaks: as long as the numbers go up by one they
//! are numbers.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use super::NotResumed;
use crate::proto::resume::Mark;

/// The cursors of a stream so far.
#[derive(Debug, Default)]
pub(crate) struct EventOrder {
    last: Option<Mark>,
    /// The numbers so far, after a common prefix.
    counted: Option<(String, RangeInclusive<u64>)>,
    /// The cursors are names.
    named: bool,
    seen: HashSet<u64>,
    /// There are more names than can be remembered.
    overflowed: bool,
}

/// At most 64 KiB of hashes. A stream with more events and names as ids is not continued.
const MAX_SEEN: usize = 4 * 1024;

// === impl EventOrder ===

impl EventOrder {
    /// Notes a cursor of the original stream.
    pub(crate) fn observe(&mut self, mark: Mark) {
        if !self.named {
            match (mark.numbered(), &mut self.counted) {
                (Some((prefix, number)), Some((counted, range)))
                    if counted == prefix && range.end().checked_add(1) == Some(number) =>
                {
                    *range = *range.start()..=number;
                }
                (Some((prefix, number)), None) => self.counted = Some((prefix.to_owned(), number..=number)),
                _ => self.named = true,
            }
        }
        if self.named {
            self.remember(&mark);
        }
        self.last = Some(mark);
    }

    /// Checks a cursor of the rest.
    pub(crate) fn follow(&mut self, mark: Mark) -> Result<(), NotResumed> {
        let (was_named, is_repeated) = (self.named, self.was_seen(&mark));
        self.observe(mark);
        if is_repeated || (self.named && !was_named) { Err(NotResumed::Contradicted) } else { Ok(()) }
    }

    /// Returns the last cursor, if a repetition would be visible.
    pub(crate) fn last(&self) -> Option<&Mark> {
        self.last.as_ref().filter(|_| !self.overflowed)
    }

    fn was_seen(&self, mark: &Mark) -> bool {
        let counted = match (mark.numbered(), &self.counted) {
            (Some((prefix, number)), Some((counted, range))) => counted == prefix && range.contains(&number),
            _ => false,
        };
        counted || self.seen.contains(&hash(mark))
    }

    fn remember(&mut self, mark: &Mark) {
        if self.seen.len() < MAX_SEEN {
            self.seen.insert(hash(mark));
        } else {
            self.overflowed = true;
        }
    }
}

fn hash(mark: &Mark) -> u64 {
    let mut hasher = DefaultHasher::new();
    mark.text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(text: &str) -> Mark {
        Mark { text: text.to_owned(), is_number: false }
    }

    fn after(seen: &[&str]) -> EventOrder {
        let mut order = EventOrder::default();
        seen.iter().for_each(|text| order.observe(mark(text)));
        order
    }

    fn follows(seen: &[&str], next: &str) -> bool {
        after(seen).follow(mark(next)).is_ok()
    }

    #[test]
    fn numbers_go_on_with_the_next() {
        for seen in [&["7"][..], &["5", "6", "7"]] {
            assert!(follows(seen, "8"));
            for wrong in ["7", "6", "5", "9", "a-8", "x"] {
                assert!(!follows(seen, wrong), "{wrong} after {seen:?}");
            }
        }
        assert!(follows(&["run-1", "run-2"], "run-3"));
        assert!(!follows(&["run-1", "run-2"], "other-3"), "another run");
    }

    #[test]
    fn names_may_be_anything_but_a_repetition() {
        for seen in [&["a", "c"][..], &["1", "9", "4"], &["1526-0", "1527-0"]] {
            assert!(follows(seen, "zzz") && follows(seen, "99"), "{seen:?}");
            assert!(seen.iter().all(|before| !follows(seen, before)), "{seen:?}");
        }
        assert!(!follows(&["1", "2", "3", "x"], "2"), "one that was counted before");
    }

    #[test]
    fn what_is_not_remembered_is_not_continued() {
        let mut order = after(&["x"]);
        (1..MAX_SEEN).for_each(|n| order.observe(mark(&format!("{}-", n * 7))));
        assert!(order.last().is_some());
        order.observe(mark("y"));
        assert!(order.last().is_none());
        let mut numbers = EventOrder::default();
        (0..2 * MAX_SEEN).for_each(|n| numbers.observe(mark(&n.to_string())));
        assert!(numbers.last().is_some() && numbers.seen.is_empty());
    }

    proptest! {
        #[test]
        fn no_event_comes_twice(ids in proptest::collection::vec("[ab]?[0-9]{1,2}|[a-c]", 1..20), cut in 1..20_usize) {
            let (before, behind) = ids.split_at(cut.min(ids.len()));
            let mut order = after(&before.iter().map(String::as_str).collect::<Vec<_>>());
            let mut seen: HashSet<&String> = before.iter().collect();
            for id in behind {
                if order.follow(mark(id)).is_err() {
                    break;
                }
                prop_assert!(seen.insert(id));
            }
        }
    }
}
