//! The window of calls that a breaker counts.
//!
//! # Why counts and not an average?
//!
//! An average that decays with each call forgets faster with more calls, and an average that decays with time gives a
//! burst almost no weight. Exact counts over the last seconds, or the last calls, have the same meaning and cost at any
//! rate, and can be checked against a list.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

/// The calls that [`CircuitBreakerLayer`](crate::CircuitBreakerLayer) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitWindow {
    /// The calls of the last `Duration`, in ten buckets: a call expires after 90 % to 100 % of it.
    Time(Duration),
    /// The last N calls, however old.
    Calls(NonZeroU16),
}

/// Counts of calls, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    /// The failed calls, including throttled ones.
    pub(crate) failures: u64,
    pub(crate) throttled: u64,
    /// The slow calls, failed or not.
    pub(crate) slow: u64,
}

/// Where a call was counted, so that it can be recounted when its body fails: the number of a bucket, or of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CountedIn(pub(crate) u64);

impl CountedIn {
    /// The slot of a call that was not counted.
    pub(crate) const NONE: Self = Self(u64::MAX);
}

/// How one call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) failed: bool,
    pub(crate) throttled: bool,
    pub(crate) slow: bool,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in each circuit, and it is never moved")]
pub(crate) enum Window {
    Time(TimeWindow),
    Calls(CallWindow),
}

/// Ten slices of time. Few enough to sum at each question, instead of maintaining a sum.
#[derive(Debug)]
pub(crate) struct TimeWindow {
    buckets: [Tally; BUCKETS as usize],
    width: Duration,
    /// The number of the current bucket, and its start.
    current: u64,
    start: Instant,
}

/// The last calls, oldest first.
#[derive(Debug)]
pub(crate) struct CallWindow {
    samples: VecDeque<Sample>,
    size: usize,
    sum: Tally,
    /// The number of calls so far: the number of the next one.
    counted: u64,
}

/// As in linkerd's `SuccessRateWindow`: old calls leave in small steps, and summing stays cheap.
const BUCKETS: u8 = 10;

// === impl Tally ===

impl Tally {
    pub(crate) fn add(&mut self, sample: Sample) {
        let Sample { failed, throttled, slow } = sample;
        self.merge(&Self { calls: 1, failures: failed.into(), throttled: throttled.into(), slow: slow.into() });
    }

    fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.throttled = self.throttled.saturating_add(other.throttled);
        self.slow = self.slow.saturating_add(other.slow);
    }

    fn remove(&mut self, sample: Sample) {
        self.calls = self.calls.saturating_sub(1);
        self.failures = self.failures.saturating_sub(sample.failed.into());
        self.throttled = self.throttled.saturating_sub(sample.throttled.into());
        self.slow = self.slow.saturating_sub(sample.slow.into());
    }
}

// === impl Sample ===

impl Sample {
    pub(crate) fn is_bad(self) -> bool {
        self.failed || self.slow
    }
}

// === impl Window ===

impl Window {
    pub(crate) fn new(window: CircuitWindow, now: Instant) -> Self {
        match window {
            CircuitWindow::Time(span) => Self::Time(TimeWindow::new(span, now)),
            CircuitWindow::Calls(size) => Self::Calls(CallWindow::new(size)),
        }
    }

    /// Removes expired calls.
    pub(crate) fn advance(&mut self, now: Instant) {
        if let Self::Time(window) = self {
            window.advance(now);
        }
    }

    /// Counts one call, at the instant it was last [advanced](Self::advance) to.
    pub(crate) fn push(&mut self, sample: Sample) {
        match self {
            Self::Time(window) => window.bucket(window.current).add(sample),
            Self::Calls(window) => window.push(sample),
        }
    }

    /// Counts several calls without a fault.
    pub(crate) fn push_successes(&mut self, calls: u64) {
        match self {
            Self::Time(window) => window.bucket(window.current).merge(&Tally { calls, ..Tally::default() }),
            Self::Calls(window) => {
                // Calls beyond the size of the window only need a number.
                window.counted = window.counted.saturating_add(calls.saturating_sub(window.size as u64));
                for _ in 0..calls.min(window.size as u64) {
                    window.push(Sample::default());
                }
            }
        }
    }

    /// Returns the slot of the next call.
    pub(crate) fn slot(&self) -> CountedIn {
        match self {
            Self::Time(window) => CountedIn(window.current),
            Self::Calls(window) => CountedIn(window.counted),
        }
    }

    /// Recounts a call as `sample`, now; it was counted as the success `was` in `slot` (or in a later slot of the same
    /// batch). An expired call is not subtracted.
    pub(crate) fn recount(&mut self, slot: CountedIn, was: Sample, sample: Sample) {
        match self {
            Self::Time(window) => {
                window.take_back(slot, was);
                self.push(sample);
            }
            // Here a call keeps its place, whenever its body fails.
            Self::Calls(window) => {
                if !window.replace(slot, was, sample) {
                    window.push(sample);
                }
            }
        }
    }

    pub(crate) fn sum(&self) -> Tally {
        match self {
            Self::Time(window) => {
                let mut sum = Tally::default();
                window.buckets.iter().for_each(|bucket| sum.merge(bucket));
                sum
            }
            Self::Calls(window) => window.sum,
        }
    }

    /// Returns until when calls may be counted without advancing; `None`: forever.
    pub(crate) fn fresh_until(&self) -> Option<Instant> {
        match self {
            Self::Time(window) => window.start.checked_add(window.width),
            Self::Calls(_) => None,
        }
    }

    /// Removes all calls.
    pub(crate) fn clear(&mut self, now: Instant) {
        match self {
            Self::Time(window) => {
                window.buckets = [Tally::default(); BUCKETS as usize];
                window.start = now;
                // Slots from before must not be found.
                window.current = window.current.saturating_add(BUCKETS.into());
            }
            Self::Calls(window) => {
                window.samples.clear();
                window.sum = Tally::default();
            }
        }
    }
}

// === impl TimeWindow ===

impl TimeWindow {
    fn new(span: Duration, now: Instant) -> Self {
        let width = (span / u32::from(BUCKETS)).max(Duration::from_nanos(1));
        Self { buckets: [Tally::default(); BUCKETS as usize], width, current: 0, start: now }
    }

    fn bucket(&mut self, number: u64) -> &mut Tally {
        // Below ten.
        &mut self.buckets[usize::try_from(number % u64::from(BUCKETS)).unwrap_or_default()]
    }

    fn take_back(&mut self, slot: CountedIn, was: Sample) {
        let age = self.current.checked_sub(slot.0);
        if age.is_some_and(|age| age < BUCKETS.into()) {
            let bucket = self.bucket(slot.0);
            if bucket.calls > bucket.failures {
                bucket.remove(was);
            }
        }
    }

    fn advance(&mut self, now: Instant) {
        // A thread that read the clock earlier than another, and came later, sees the past: it counts for the present.
        let elapsed = now.saturating_duration_since(self.start);
        if elapsed < self.width {
            return;
        }
        let steps = u64::try_from(elapsed.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX);
        let current = self.current.saturating_add(steps);
        for nth in 0..steps.min(BUCKETS.into()) {
            *self.bucket(current.saturating_sub(nth)) = Tally::default();
        }
        self.current = current;
        // On the grid of buckets, however late: otherwise each advance would stretch the window.
        let into = elapsed.as_nanos() % self.width.as_nanos();
        self.start = now.checked_sub(nanos(into)).unwrap_or(now);
    }
}

/// The inverse of [`Duration::as_nanos`].
fn nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let secs = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
    let below = u32::try_from(nanos % SECOND).unwrap_or_default();
    Duration::new(secs, below)
}

// === impl CallWindow ===

impl CallWindow {
    fn new(size: NonZeroU16) -> Self {
        let size = usize::from(size.get());
        Self { samples: VecDeque::with_capacity(size), size, sum: Tally::default(), counted: 0 }
    }

    fn push(&mut self, sample: Sample) {
        if self.samples.len() == self.size {
            if let Some(oldest) = self.samples.pop_front() {
                self.sum.remove(oldest);
            }
        }
        self.samples.push_back(sample);
        self.sum.add(sample);
        self.counted = self.counted.saturating_add(1);
    }

    /// Replaces the first such call at or after `slot`, and returns whether there was one. Any call of a batch will do;
    /// if the slot itself has expired, later calls may not be of that batch.
    fn replace(&mut self, slot: CountedIn, was: Sample, sample: Sample) -> bool {
        let behind = usize::try_from(self.counted.saturating_sub(slot.0)).unwrap_or(usize::MAX);
        let Some(first) = self.samples.len().checked_sub(behind) else { return false };
        let Some(found) = self.samples.range_mut(first..).find(|found| **found == was) else { return false };
        *found = sample;
        self.sum.remove(was);
        self.sum.add(sample);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const BAD: Sample = Sample { failed: true, throttled: false, slow: false };
    const GOOD: Sample = Sample { failed: false, throttled: false, slow: false };

    fn time(seconds: u64) -> (Window, Instant) {
        let now = Instant::now();
        (Window::new(CircuitWindow::Time(Duration::from_secs(seconds)), now), now)
    }

    fn last(size: u16) -> (Window, Instant) {
        let now = Instant::now();
        (Window::new(CircuitWindow::Calls(NonZeroU16::new(size).unwrap()), now), now)
    }

    fn counted(window: &Window) -> (u64, u64) {
        let Tally { calls, failures, .. } = window.sum();
        (calls, failures)
    }

    #[test]
    fn each_kind_of_call_is_counted_for_itself() {
        for (mut window, _) in [time(10), last(10)] {
            window.push(GOOD);
            window.push(BAD);
            window.push(Sample { throttled: true, ..BAD });
            window.push(Sample { slow: true, ..GOOD });
            assert_eq!(window.sum(), Tally { calls: 4, failures: 2, throttled: 1, slow: 1 });
            window.push_successes(3);
            assert_eq!(window.sum(), Tally { calls: 7, failures: 2, throttled: 1, slow: 1 });
            window.clear(Instant::now());
            assert_eq!(window.sum(), Tally::default());
        }
        assert!(BAD.is_bad() && Sample { slow: true, ..GOOD }.is_bad() && !GOOD.is_bad());
    }

    #[test]
    fn a_bucket_is_forgotten_after_ten_of_them() {
        let (mut window, now) = time(10);
        assert_eq!((window.slot(), window.fresh_until()), (CountedIn(0), Some(now + S)));
        window.push(BAD);
        window.advance(now + S - Duration::from_nanos(1));
        assert_eq!(window.slot(), CountedIn(0));
        window.advance(now + S);
        assert_eq!((window.slot(), window.fresh_until()), (CountedIn(1), Some(now + 2 * S)));
        window.push(GOOD);
        // On the grid, however late.
        window.advance(now + S * 11 / 2);
        assert_eq!((window.slot(), window.fresh_until()), (CountedIn(5), Some(now + 6 * S)));
        window.advance(now + 10 * S - Duration::from_nanos(1));
        assert_eq!(counted(&window), (2, 1));
        window.advance(now + 10 * S);
        assert_eq!(counted(&window), (1, 0));
        window.advance(now + 11 * S);
        assert_eq!(counted(&window), (0, 0));
        // A thread that read the clock before.
        window.advance(now);
        assert_eq!(window.slot(), CountedIn(11));
        window.push(BAD);
        window.advance(now + 1_000 * S);
        assert_eq!((counted(&window), window.slot()), ((0, 0), CountedIn(1_000)));
    }

    #[test]
    fn a_success_is_taken_back_from_its_bucket_while_that_is_remembered() {
        let (mut window, now) = time(10);
        window.push_successes(2);
        let slot = window.slot();
        window.advance(now + 9 * S);
        window.recount(slot, GOOD, BAD);
        assert_eq!(counted(&window), (2, 1));
        window.advance(now + 10 * S);
        assert_eq!(counted(&window), (1, 1), "it was counted anew when it failed");
        window.recount(slot, GOOD, BAD);
        assert_eq!(counted(&window), (2, 2), "there is nothing to take back");
        let (mut window, _) = time(10);
        window.push(BAD);
        window.recount(CountedIn(0), GOOD, BAD);
        assert_eq!(counted(&window), (2, 2), "a failure is not taken back for a success");
        let (mut window, now) = time(10);
        window.push(GOOD);
        window.clear(now);
        window.push(GOOD);
        window.recount(CountedIn(0), GOOD, BAD);
        assert_eq!(counted(&window), (2, 1), "what was before it was cleared is not found");
    }

    #[test]
    fn of_the_last_calls_the_oldest_leaves() {
        let (mut window, now) = last(3);
        assert_eq!((window.slot(), window.fresh_until()), (CountedIn(0), None));
        window.push(BAD);
        window.push(Sample { slow: true, throttled: true, failed: true });
        window.push(GOOD);
        assert_eq!((counted(&window), window.slot()), ((3, 2), CountedIn(3)));
        window.push(GOOD);
        assert_eq!(window.sum(), Tally { calls: 3, failures: 1, throttled: 1, slow: 1 });
        window.advance(now + 1_000 * S);
        window.push(GOOD);
        assert_eq!(window.sum(), Tally { calls: 3, ..Tally::default() });
        window.push(BAD);
        window.push_successes(2);
        assert_eq!((counted(&window), window.slot()), ((3, 1), CountedIn(8)));
        window.push_successes(100);
        assert_eq!((counted(&window), window.slot()), ((3, 0), CountedIn(108)), "all have a number");
    }

    #[test]
    fn of_the_last_calls_one_is_recounted_in_its_place() {
        let (mut window, _) = last(3);
        let first = window.slot();
        window.push(GOOD);
        let second = window.slot();
        window.push(BAD);
        window.push(GOOD);
        window.recount(second, GOOD, BAD);
        assert_eq!((counted(&window), window.slot()), ((3, 2), CountedIn(3)), "the next one of its batch");
        window.recount(first, GOOD, BAD);
        assert_eq!(counted(&window), (3, 3));
        window.recount(first, GOOD, BAD);
        assert_eq!(
            (counted(&window), window.slot()),
            ((3, 3), CountedIn(4)),
            "there is no such call, and it is a new one"
        );
        let (mut window, _) = last(2);
        window.push(GOOD);
        window.push(GOOD);
        window.push(GOOD);
        window.recount(CountedIn(0), GOOD, BAD);
        assert_eq!((counted(&window), window.slot()), ((2, 1), CountedIn(4)), "its place is forgotten");
        window.recount(CountedIn(1), GOOD, BAD);
        assert_eq!(counted(&window), (2, 2));
    }

    #[test]
    fn nanoseconds_are_a_duration() {
        for time in [Duration::ZERO, Duration::new(0, 999_999_999), S, Duration::new(7, 1), Duration::MAX] {
            assert_eq!(nanos(time.as_nanos()), time);
        }
    }
}
