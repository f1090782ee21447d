//! Limits how many retries a client adds to an upstream's load.
//!
//! # Why budgets and not max retries?
//!
//! "At most three attempts" triples the load of a failing upstream when it can bear it least, and multiplies through
//! every tier that does the same. A budget covers all calls together: while few fail, each of them is retried; when all
//! fail, a fifth is. (After Finagle: <https://finagle.github.io/blog/2016/02/08/retry-budgets/>.)
//!
//! A window is divided into ten slots. Calls and retries are counted per slot, and expire after ten slots. This module
//! has the arithmetic; [`rt::retry_budget`](crate::rt::retry_budget) counts.

use std::time::Duration;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Retries per hundred calls of a window.
    percent: u64,
    /// Retries allowed in any window, even without calls.
    reserve: u64,
    slot_nanos: u64,
}

/// The number of a time slot and its count in one word, so that one atomic operation changes both.
///
/// The number takes the upper half (13 years of the shortest slots), the count the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotCount(pub(crate) u64);

/// The cells of one window's slots, reused in turn.
pub(crate) type Ring<T> = [T; SLOTS];

/// Finagle's and tower's resolution.
pub(crate) const SLOTS: usize = 10;
const COUNT_BITS: u32 = 32;

// === impl Budget ===

impl Budget {
    /// A window is 1 s to 60 s, as in Finagle: in a shorter one the calls expire before they fail; a longer one lets a
    /// good hour pay for a retry storm.
    pub(crate) fn new(percent: u32, min_per_second: u32, window: Duration) -> Self {
        let window = window.clamp(Duration::from_secs(1), Duration::from_secs(60));
        let reserve = u128::from(min_per_second) * window.as_millis() / 1_000;
        let slot_nanos = u64::try_from(window.as_nanos() / 10).unwrap_or(u64::MAX);
        Self { percent: u64::from(percent), reserve: u64::try_from(reserve).unwrap_or(u64::MAX), slot_nanos }
    }

    /// Returns the slot of an instant, `since` after the first one. Counted from 1, since an unused cell has 0.
    pub(crate) fn slot_at(&self, since: Duration) -> u64 {
        // 584 years fit.
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        (nanos / self.slot_nanos).min(u64::from(u32::MAX - 1)) + 1
    }

    /// Counts a retry in `retries` if the window that ends with `slot` allows another.
    pub(crate) fn withdraw(
        &self,
        calls: impl Iterator<Item = SlotCount>,
        retries: &mut Ring<SlotCount>,
        slot: u64,
    ) -> bool {
        let allowed = (counted(calls, slot).saturating_mul(self.percent) / 100).saturating_add(self.reserve);
        let made = counted(retries.iter().copied(), slot);
        let Some(cell) = retries.get_mut(index(slot)) else { return false };
        if made >= allowed || cell.slot() > slot {
            return false;
        }
        *cell = if cell.slot() == slot { cell.plus_one() } else { SlotCount::first_of(slot) };
        true
    }
}

/// The cell of a slot in its ring.
pub(crate) fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or_default()
}

/// The count of the ten slots up to `now`; a later slot, which another thread may have begun, counts too.
fn counted(cells: impl Iterator<Item = SlotCount>, now: u64) -> u64 {
    cells.filter(|cell| now < cell.slot() + SLOTS as u64).map(SlotCount::count).sum()
}

// === impl SlotCount ===

impl SlotCount {
    pub(crate) const fn first_of(slot: u64) -> Self {
        Self(slot << COUNT_BITS | 1)
    }

    pub(crate) const fn slot(self) -> u64 {
        self.0 >> COUNT_BITS
    }

    const fn count(self) -> u64 {
        self.0 & ((1 << COUNT_BITS) - 1)
    }

    const fn plus_one(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        /// One call or retry in each of these slots, in their order.
        #[test]
        fn a_retry_is_paid_for_by_the_calls_of_its_window(
            steps in proptest::collection::vec((0..3_u64, any::<bool>()), 0..200), percent in 0..300_u32, reserve in 0..5_u32,
        ) {
            let budget = Budget::new(percent, reserve, Duration::from_secs(1));
            let (mut calls, mut made) = (Vec::new(), Vec::new());
            let mut retries = Ring::default();
            let mut slot = 1;
            for (passed, is_call) in steps {
                slot += passed;
                if is_call {
                    calls.push(slot);
                    continue;
                }
                let fresh = |slots: &[u64]| slots.iter().filter(|at| **at + 10 > slot).count() as u64;
                let expected = fresh(&made) < fresh(&calls) * u64::from(percent) / 100 + u64::from(reserve);
                let counted = calls.iter().map(|at| SlotCount::first_of(*at));
                prop_assert_eq!(budget.withdraw(counted, &mut retries, slot), expected);
                if expected {
                    made.push(slot);
                }
            }
        }
    }
}
