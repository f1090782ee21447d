//! The states, counts and changes that a breaker reports.

use std::fmt;
use std::time::Duration;

use crate::error::Rounded;
use crate::policy::window::Tally;

/// How a circuit handles the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls pass, and are counted.
    Closed,
    /// Calls are refused until the open time is over.
    Open,
    /// A few calls pass as probes; the others are refused.
    HalfOpen,
    /// Calls are refused until the circuit is closed by hand.
    Isolated,
    /// Calls pass and are counted, but nothing opens the circuit; an event reports when it would have opened.
    MetricsOnly,
    /// Calls pass, and nothing is counted.
    Disabled,
}

/// Why a circuit changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// The ratio of failed calls reached its limit.
    FailureRatio,
    /// The ratio of slow calls reached its limit.
    SlowRatio,
    /// A call failed soon after the circuit had closed, before any other succeeded.
    FailedAfterClosing,
    /// A probe failed, was throttled, or was slow.
    ProbeFailed,
    /// The open time has passed.
    OpenTimeOver,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// A health probe succeeded.
    HealthProbeSucceeded,
    /// An operator changed it.
    Manual,
    /// Other processes found the upstream failing, or healthy again.
    Peers,
}

/// The calls that were counted in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CircuitStats {
    /// The calls with a result: those in the window, or the probes of a half-open circuit.
    pub calls: u64,
    /// The failed calls, including throttled ones.
    pub failures: u64,
    /// The calls that the upstream throttled (429).
    pub throttled: u64,
    /// The slow calls, failed or not.
    pub slow: u64,
    /// The failures since the last success.
    pub consecutive: u32,
}

/// One change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CircuitChange {
    /// The previous state.
    pub from: CircuitState,
    /// The new state.
    pub to: CircuitState,
    /// The reason.
    pub reason: CircuitReason,
    /// The calls counted in the previous state.
    pub stats: CircuitStats,
    /// How long calls will be refused, if known.
    pub open_for: Option<Duration>,
    /// Numbers the changes of this circuit. Events of different threads may arrive out of order: the highest number is
    /// the latest.
    pub generation: u32,
}

/// A circuit at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitSnapshot {
    /// The current state.
    pub state: CircuitState,
    /// The calls counted in this state; for an open circuit, the calls that opened it.
    pub stats: CircuitStats,
    /// How long calls will still be refused, if known.
    pub open_for: Option<Duration>,
    /// The probes in flight.
    pub probes: usize,
    /// How often the circuit has opened since it was created.
    pub opened: u64,
    /// How many calls it has refused since it was created.
    pub refused: u64,
}

// === impl CircuitState ===

impl CircuitState {
    /// A stable name: `"half-open"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Isolated => "isolated",
            Self::MetricsOnly => "metrics-only",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl CircuitReason ===

impl CircuitReason {
    /// A stable name: `"failure-ratio"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive-failures",
            Self::FailureRatio => "failure-ratio",
            Self::SlowRatio => "slow-ratio",
            Self::FailedAfterClosing => "failed-after-closing",
            Self::ProbeFailed => "probe-failed",
            Self::OpenTimeOver => "open-time-over",
            Self::ProbesSucceeded => "probes-succeeded",
            Self::HealthProbeSucceeded => "health-probe-succeeded",
            Self::Manual => "manual",
            Self::Peers => "peers",
        }
    }
}

impl fmt::Display for CircuitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl CircuitStats ===

impl CircuitStats {
    pub(crate) fn new(tally: Tally, consecutive: u32) -> Self {
        let Tally { calls, failures, throttled, slow } = tally;
        Self { calls, failures, throttled, slow, consecutive }
    }

    /// The ratio of calls that failed; `None` before the first call.
    #[must_use]
    pub fn failure_ratio(&self) -> Option<f64> {
        ratio(self.failures, self.calls)
    }

    /// The ratio of slow calls; `None` before the first call.
    #[must_use]
    pub fn slow_ratio(&self) -> Option<f64> {
        ratio(self.slow, self.calls)
    }
}

/// Rounded once, like the literal it is compared with: three of ten is exactly `0.3`.
#[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 calls")]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

// === impl CircuitChange ===

impl fmt::Display for CircuitChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, reason, stats, open_for, .. } = self;
        write!(f, "{from} -> {to} ({reason}): {} of {} calls failed", stats.failures, stats.calls)?;
        match open_for {
            Some(time) => write!(f, ", open for {}", Rounded(*time)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable() {
        let states = [
            (CircuitState::Closed, "closed"),
            (CircuitState::Open, "open"),
            (CircuitState::HalfOpen, "half-open"),
            (CircuitState::Isolated, "isolated"),
            (CircuitState::MetricsOnly, "metrics-only"),
            (CircuitState::Disabled, "disabled"),
        ];
        for (state, name) in states {
            assert_eq!((state.as_str(), state.to_string().as_str()), (name, name));
        }
        let reasons = [
            (CircuitReason::ConsecutiveFailures, "consecutive-failures"),
            (CircuitReason::FailureRatio, "failure-ratio"),
            (CircuitReason::SlowRatio, "slow-ratio"),
            (CircuitReason::FailedAfterClosing, "failed-after-closing"),
            (CircuitReason::ProbeFailed, "probe-failed"),
            (CircuitReason::OpenTimeOver, "open-time-over"),
            (CircuitReason::ProbesSucceeded, "probes-succeeded"),
            (CircuitReason::HealthProbeSucceeded, "health-probe-succeeded"),
            (CircuitReason::Manual, "manual"),
            (CircuitReason::Peers, "peers"),
        ];
        for (reason, name) in reasons {
            assert_eq!((reason.as_str(), reason.to_string().as_str()), (name, name));
        }
    }

    #[test]
    fn ratios_are_those_of_all_calls() {
        let stats = CircuitStats::new(Tally { calls: 8, failures: 2, throttled: 1, slow: 4 }, 3);
        assert_eq!((stats.failure_ratio(), stats.slow_ratio()), (Some(0.25), Some(0.5)));
        assert_eq!((stats.calls, stats.failures, stats.throttled, stats.slow, stats.consecutive), (8, 2, 1, 4, 3));
        let none = CircuitStats::default();
        assert_eq!((none.failure_ratio(), none.slow_ratio()), (None, None));
    }

    #[test]
    fn a_change_is_displayed_in_one_line() {
        let stats = CircuitStats::new(Tally { calls: 8, failures: 2, throttled: 0, slow: 0 }, 2);
        let (from, to, reason) = (CircuitState::Closed, CircuitState::Open, CircuitReason::FailureRatio);
        let open_for = Some(Duration::from_secs(5));
        let change = CircuitChange { from, to, reason, stats, open_for, generation: 2 };
        assert_eq!(change.to_string(), "closed -> open (failure-ratio): 2 of 8 calls failed, open for 5s");
        let change = CircuitChange { open_for: None, ..change };
        assert_eq!(change.to_string(), "closed -> open (failure-ratio): 2 of 8 calls failed");
    }
}
