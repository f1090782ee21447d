//! The counters of a retry budget: the only state of retries that all threads write.
//!
//! A deposit, on every call, is usually one atomic addition, to one of several counters to avoid contention. A withdrawal
//! happens only after a failure: it sums the deposits of a window under a lock that also holds the withdrawals, so that
//! the last token is granted once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::per_thread::Striped;
use crate::policy::budget::{Budget, Ring, SlotCount, index};

/// Limits the retries of the layers that share it: a ratio of their calls, plus a minimum rate.
///
/// A window allows `percent` retries per hundred calls, plus `min_per_second` for each of its seconds. Older calls and
/// retries do not count. Clones share one budget: give one to all layers with the same upstream.
///
/// ```
/// use std::time::Duration;
/// use tower_buttress::{RetryAfterBackoffLayer, RetryBudget};
///
/// // One retry per ten calls, and five a second in any case.
/// let budget = RetryBudget::new(10, 5, Duration::from_secs(10));
/// let chat = RetryAfterBackoffLayer::new().budget(budget.clone());
/// let embeddings = RetryAfterBackoffLayer::new().budget(budget);
/// # let _ = (chat, embeddings);
/// ```
#[derive(Clone)]
pub struct RetryBudget {
    /// `None`: unlimited.
    shared: Option<Arc<Shared>>,
}

struct Shared {
    budget: Budget,
    /// The first instant seen, from which slots are counted.
    origin: OnceLock<Instant>,
    /// [`SlotCount`]s.
    deposits: Striped<Ring<AtomicU64>>,
    withdrawals: Mutex<Ring<SlotCount>>,
}

/// Enough to spread a runtime's threads; a withdrawal reads all of them.
const STRIPES: usize = 8;

// === impl RetryBudget ===

impl RetryBudget {
    /// Allows retries for `percent` of all calls in a window (200: two per call), plus `min_per_second`.
    ///
    /// A window is clamped to 1 s to 60 s.
    #[must_use]
    pub fn new(percent: u32, min_per_second: u32, window: Duration) -> Self {
        Self {
            shared: Some(Arc::new(Shared {
                budget: Budget::new(percent, min_per_second, window),
                origin: OnceLock::new(),
                deposits: Striped::new(STRIPES, Ring::default),
                withdrawals: Mutex::default(),
            })),
        }
    }

    /// Allows every retry.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { shared: None }
    }

    /// Counts one call. Reads `now` only if there is a limit.
    #[inline]
    pub(crate) fn deposit(&self, now: impl FnOnce() -> Instant) {
        if let Some(shared) = &self.shared {
            shared.deposit(now());
        }
    }

    /// Takes one retry from the budget, if it has one.
    #[must_use]
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.withdraw(now))
    }
}

impl Default for RetryBudget {
    /// 20 % of the calls and ten retries a second, over 10 s: as in Finagle and tower.
    fn default() -> Self {
        Self::new(20, 10, Duration::from_secs(10))
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shared {
            Some(shared) => f.debug_tuple("RetryBudget").field(&shared.budget).finish(),
            None => f.write_str("RetryBudget::unlimited"),
        }
    }
}

// === impl Shared ===

impl Shared {
    #[inline]
    fn deposit(&self, now: Instant) {
        let slot = self.slot_at(now);
        let cell = &self.deposits.own()[index(slot)];
        let mut seen = SlotCount(cell.load(Relaxed));
        loop {
            if seen.slot() == slot {
                cell.fetch_add(1, Relaxed);
                return;
            }
            // A thread that was delayed by a whole window: its call no longer counts.
            if seen.slot() > slot {
                return;
            }
            match cell.compare_exchange_weak(seen.0, SlotCount::first_of(slot).0, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(changed) => seen = SlotCount(changed),
            }
        }
    }

    #[cold]
    fn withdraw(&self, now: Instant) -> bool {
        let slot = self.slot_at(now);
        let mut withdrawals = self.withdrawals.lock().unwrap_or_else(PoisonError::into_inner);
        let deposits = self.deposits.iter().flatten().map(|cell| SlotCount(cell.load(Relaxed)));
        self.budget.withdraw(deposits, &mut withdrawals, slot)
    }

    fn slot_at(&self, now: Instant) -> u64 {
        self.budget.slot_at(now.saturating_duration_since(*self.origin.get_or_init(|| now)))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn withdrawals(budget: &RetryBudget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    fn deposit(budget: &RetryBudget, calls: usize, now: Instant) {
        (0..calls).for_each(|_| budget.deposit(|| now));
    }

    #[test]
    fn a_share_of_the_calls_may_be_retried() {
        let (budget, now) = (RetryBudget::new(20, 0, 10 * S), Instant::now());
        assert_eq!(withdrawals(&budget, now), 0);
        deposit(&budget, 104, now);
        assert_eq!(withdrawals(&budget, now), 20);
    }

    #[test]
    fn a_client_that_calls_seldom_has_a_minimum() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        assert_eq!(withdrawals(&budget, now), 100);
        deposit(&budget, 10, now);
        assert_eq!(withdrawals(&budget, now), 2);
        assert_eq!(withdrawals(&budget, now + 9 * S), 0);
        assert_eq!(withdrawals(&budget, now + 10 * S), 100);
    }

    #[test]
    fn deposits_expire() {
        let (budget, now) = (RetryBudget::new(100, 0, 10 * S), Instant::now());
        deposit(&budget, 5, now);
        deposit(&budget, 3, now + 5 * S);
        assert_eq!(withdrawals(&budget, now + 10 * S), 3);
        assert_eq!(withdrawals(&budget, now + 3_600 * S), 0);
    }

    #[test]
    fn clones_share_one_budget() {
        let (budget, now) = (RetryBudget::new(100, 0, 10 * S), Instant::now());
        let other = budget.clone();
        deposit(&other, 1, now);
        assert!(budget.withdraw(now));
        assert!(!other.withdraw(now));
    }

    #[test]
    fn without_a_limit_no_clock_is_read() {
        let budget = RetryBudget::unlimited();
        budget.deposit(|| panic!("read the clock"));
        assert_eq!(withdrawals(&budget, Instant::now()), 10_000);
    }

    #[test]
    fn absurd_settings_are_survived() {
        let now = Instant::now();
        let all = RetryBudget::new(u32::MAX, u32::MAX, Duration::MAX);
        deposit(&all, 3, now);
        assert!(all.withdraw(now));
        let none = RetryBudget::new(0, 0, Duration::ZERO);
        deposit(&none, 3, now);
        assert!(!none.withdraw(now));
    }

    #[test]
    fn no_deposit_is_lost_and_no_token_granted_twice() {
        let (budget, start) = (RetryBudget::new(50, 0, 60 * S), Instant::now());
        // The slots change while the threads count.
        let at = |call: u32| start + S * (call / 500);
        let granted: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..20_000_u32)
                            .filter(|call| {
                                budget.deposit(|| at(*call));
                                budget.withdraw(at(*call))
                            })
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // All 40 seconds lie within one window.
        assert_eq!(granted + withdrawals(&budget, at(20_000)), 8 * 20_000 / 2);
    }

    /// A model that keeps everything.
    #[derive(Default)]
    struct Ledger {
        deposits: Vec<u128>,
        withdrawals: Vec<u128>,
    }

    impl Ledger {
        fn withdraw(&mut self, slot: u128, percent: u32, reserve: u32) -> bool {
            let fresh = |entries: &[u128]| entries.iter().filter(|entry| **entry + 10 > slot).count();
            let allowed = fresh(&self.deposits) * percent as usize / 100 + reserve as usize;
            let granted = fresh(&self.withdrawals) < allowed;
            if granted {
                self.withdrawals.push(slot);
            }
            granted
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Deposit,
        Withdraw,
        Pass(Duration),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any::<bool>().prop_map(|deposit| if deposit { Step::Deposit } else { Step::Withdraw }),
            1 => (0..3_000_u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_ledger(steps in steps(), percent in 0..300_u32, per_second in 0..3_u32, secs in 1..30_u32) {
            let window = S * secs;
            let (budget, start) = (RetryBudget::new(percent, per_second, window), Instant::now());
            let mut ledger = Ledger::default();
            let mut passed = Duration::ZERO;
            budget.deposit(|| start);
            ledger.deposits.push(0);
            for step in steps {
                let slot = passed.as_nanos() / (window / 10).as_nanos();
                match step {
                    Step::Pass(time) => passed += time,
                    Step::Deposit => {
                        budget.deposit(|| start + passed);
                        ledger.deposits.push(slot);
                    }
                    Step::Withdraw => prop_assert_eq!(
                        budget.withdraw(start + passed),
                        ledger.withdraw(slot, percent, per_second * secs)
                    ),
                }
            }
        }
    }
}
