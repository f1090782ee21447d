//! The calls that a breaker remembers.
//!
//! # Why counts and not an average?
//!
//! An average that decays with each call forgets faster the more calls there are, and one that decays with time gives a
//! burst next to no weight. Exact counts over the last so many seconds, or the last so many calls, mean the same at any
//! rate, cost the same at any rate, and can be checked against a list.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

/// What [`CircuitBreakerLayer`](crate::CircuitBreakerLayer) remembers of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitWindow {
    /// The calls that ended in the last so much time, in ten buckets: a call is forgotten between nine and ten tenths
    /// of the time after it ended.
    Time(Duration),
    /// The last so many calls, whenever they ended.
    Calls(NonZeroU16),
}

/// How many calls ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    /// Those that failed, the throttled ones among them.
    pub(crate) failures: u64,
    pub(crate) throttled: u64,
    /// Those that were slow, whether or not they failed.
    pub(crate) slow: u64,
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

/// Ten slices of time. Few enough to add them up at each question, instead of keeping a sum that must be kept right.
#[derive(Debug)]
pub(crate) struct TimeWindow {
    buckets: [Tally; BUCKETS as usize],
    width: Duration,
    /// The bucket that the present falls into, and when it began.
    current: usize,
    start: Instant,
}

/// The last calls, oldest first.
#[derive(Debug)]
pub(crate) struct CallWindow {
    samples: VecDeque<Sample>,
    size: usize,
    sum: Tally,
}

/// As linkerd's `SuccessRateWindow`: old calls leave in small steps, and adding up stays cheap.
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

    /// Forgets what has become too old.
    pub(crate) fn advance(&mut self, now: Instant) {
        if let Self::Time(window) = self {
            window.advance(now);
        }
    }

    /// Notes one call, at the instant it was last [advanced](Self::advance) to.
    pub(crate) fn push(&mut self, sample: Sample) {
        match self {
            Self::Time(window) => window.buckets[window.current].add(sample),
            Self::Calls(window) => window.push(sample),
        }
    }

    /// Notes many calls with which nothing was wrong.
    pub(crate) fn push_good(&mut self, calls: u64) {
        match self {
            Self::Time(window) => {
                window.buckets[window.current].merge(&Tally { calls, ..Tally::default() });
            }
            Self::Calls(window) => {
                for _ in 0..calls.min(window.size as u64) {
                    window.push(Sample::default());
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

    /// Until when calls may be noted without advancing; `None` for ever.
    pub(crate) fn fresh_until(&self) -> Option<Instant> {
        match self {
            Self::Time(window) => window.start.checked_add(window.width),
            Self::Calls(_) => None,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, now: Instant) {
        match self {
            Self::Time(window) => {
                window.buckets = [Tally::default(); BUCKETS as usize];
                window.start = now;
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

    fn advance(&mut self, now: Instant) {
        // A thread that read the clock before another, and came after it, sees the past: it belongs to the present.
        let elapsed = now.saturating_duration_since(self.start);
        if elapsed < self.width {
            return;
        }
        let steps = elapsed.as_nanos() / self.width.as_nanos();
        for _ in 0..steps.min(BUCKETS.into()) {
            self.current = (self.current + 1) % usize::from(BUCKETS);
            self.buckets[self.current] = Tally::default();
        }
        // On the grid of buckets, however late we are: otherwise each advance would stretch the window a little.
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
        Self { samples: VecDeque::with_capacity(size), size, sum: Tally::default() }
    }

    fn push(&mut self, sample: Sample) {
        if self.samples.len() == self.size {
            if let Some(oldest) = self.samples.pop_front() {
                self.sum.remove(oldest);
            }
        }
        self.samples.push_back(sample);
        self.sum.add(sample);
    }
}
