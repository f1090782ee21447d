//! When a breaker opens, and for how long.

use std::num::NonZeroU32;
use std::time::Duration;

use super::report::{CircuitReason, ratio};
use crate::policy::window::{CircuitWindow, Tally};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BreakerSettings {
    pub(crate) window: CircuitWindow,
    pub(crate) min_calls: NonZeroU32,
    /// In `(0, 1]`.
    pub(crate) failure_ratio: f64,
    /// `None`: slow calls are not counted.
    pub(crate) slow_ratio: Option<f64>,
    pub(crate) consecutive: Option<NonZeroU32>,
    /// The first open time, and the longest.
    pub(crate) open: Duration,
    pub(crate) open_max: Duration,
    pub(crate) jitter: f64,
    /// The number of calls that may probe at once.
    pub(crate) probes: NonZeroU32,
    /// The number of probes that must succeed, if different.
    pub(crate) successes: Option<NonZeroU32>,
    /// The time limit of a probe's result.
    pub(crate) probe_timeout: Duration,
    pub(crate) metrics_only: bool,
}

// === impl Settings ===

impl BreakerSettings {
    /// The number of calls that the window must hold before a ratio counts, at most its size.
    pub(super) fn min_calls(&self) -> u64 {
        let asked = u64::from(self.min_calls.get());
        match self.window {
            CircuitWindow::Time(_) => asked,
            CircuitWindow::Calls(size) => asked.min(size.get().into()),
        }
    }

    pub(super) fn successes(&self) -> u32 {
        self.successes.unwrap_or(self.probes).get()
    }

    /// Returns the ratio that the window reaches if `waiting` more calls succeed.
    pub(super) fn ratio_reached(&self, sum: &Tally, waiting: u64) -> Option<CircuitReason> {
        if sum.calls < self.min_calls() {
            return None;
        }
        let calls = sum.calls.saturating_add(waiting);
        let reached = |part, threshold| ratio(part, calls).is_some_and(|ratio| ratio >= threshold);
        if reached(sum.failures, self.failure_ratio) {
            Some(CircuitReason::FailureRatio)
        } else if self.slow_ratio.is_some_and(|ratio| reached(sum.slow, ratio)) {
            Some(CircuitReason::SlowRatio)
        } else {
            None
        }
    }

    /// Whether a success could reveal a reached threshold: because it fills the window to the minimum of calls, or
    /// because older successes have left it. Otherwise it only lowers both ratios.
    pub(super) fn success_may_trip(&self, sum: &Tally) -> bool {
        self.ratio_reached(&Tally { calls: sum.calls.max(self.min_calls()), ..*sum }, 0).is_some()
    }

    /// The open time after this many probes in a row without an answer: `open`, doubled with each, up to `open_max`, plus
    /// jitter, so that many clients do not probe at once. At the maximum the jitter is subtracted instead; the time is
    /// never shorter than `open`.
    pub(super) fn open_time(&self, unanswered: u32, rng: &mut fastrand::Rng) -> Duration {
        let doubled = 1_u32.checked_shl(unanswered).map_or(Duration::MAX, |factor| self.open.saturating_mul(factor));
        let longest = scale(doubled.min(self.open_max), 1.0 + self.jitter).min(self.open_max);
        let shortest = scale(longest, 1.0 / (1.0 + self.jitter)).max(self.open).min(longest);
        shortest + scale(longest - shortest, rng.f64())
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        const fn nonzero(n: u32) -> NonZeroU32 {
            match NonZeroU32::new(n) {
                Some(n) => n,
                None => NonZeroU32::MIN,
            }
        }
        Self {
            window: CircuitWindow::Time(Duration::from_secs(60)),
            min_calls: nonzero(20),
            failure_ratio: 0.7,
            slow_ratio: None,
            // As in Finagle's failure accrual, like the first open time and its jitter.
            consecutive: Some(nonzero(5)),
            open: Duration::from_secs(5),
            // One call in this time finds out that an upstream is back, before callers give up on it.
            open_max: Duration::from_secs(15),
            jitter: 0.1,
            probes: NonZeroU32::MIN,
            successes: None,
            // The longest first byte of `TimeoutProfile`.
            probe_timeout: Duration::from_secs(90),
            metrics_only: false,
        }
    }
}

/// `Duration::mul_f64` panics where this saturates.
fn scale(time: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}
