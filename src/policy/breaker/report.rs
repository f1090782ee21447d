//! What a breaker says about itself.

use std::fmt;
use std::time::Duration;

use crate::policy::window::Tally;

/// What a circuit does with the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls pass, and are counted.
    Closed,
    /// Calls are refused, until some time has passed.
    Open,
    /// A few calls pass, to find out; the others are refused.
    HalfOpen,
    /// Calls are refused until somebody closes the circuit by hand.
    Isolated,
    /// Calls pass and are counted, but nothing opens the circuit: only an event tells that it would have.
    MetricsOnly,
    /// Calls pass, and nothing is counted.
    Disabled,
}

/// Why a circuit went from one state into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a part of the calls failed.
    FailureRatio,
    /// Too large a part of the calls was slow.
    SlowRatio,
    /// A probe failed, was throttled, or was slow.
    ProbeFailed,
    /// A probe heard nothing from the upstream.
    ProbeTimeout,
    /// The open time is over.
    OpenTimeOver,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// The health probe succeeded often enough.
    HealthProbeSucceeded,
    /// Somebody asked for it.
    Manual,
}

/// The calls that a state has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CircuitStats {
    /// The calls that said something about the upstream: in the window, or the probes of a half-open circuit.
    pub calls: u64,
    /// Those that failed, the throttled ones among them.
    pub failures: u64,
    /// Those that the upstream throttled (429).
    pub throttled: u64,
    /// Those that were slow, whether or not they failed.
    pub slow: u64,
    /// How many failures there were since the last success.
    pub consecutive: u32,
}

/// One change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CircuitChange {
    /// The state that was left.
    pub from: CircuitState,
    /// The state that was entered.
    pub to: CircuitState,
    /// Why.
    pub cause: CircuitReason,
    /// What the state that was left had seen.
    pub figures: CircuitStats,
    /// For how long calls will be refused, where that is known.
    pub open_for: Option<Duration>,
    /// Counts the changes of this circuit. Events of different threads may overtake each other: the greatest is the
    /// latest.
    pub generation: u32,
}

/// A circuit at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitSnapshot {
    /// What it does with the next call.
    pub state: CircuitState,
    /// What this state has seen; of an open circuit, what made it open.
    pub figures: CircuitStats,
    /// How long calls will still be refused, where that is known.
    pub open_for: Option<Duration>,
    /// The probes that are on their way.
    pub probes: usize,
    /// How often the circuit has opened, in its whole life.
    pub opened: u64,
    /// How many calls were refused, in its whole life.
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
            Self::ProbeFailed => "probe-failed",
            Self::ProbeTimeout => "probe-timeout",
            Self::OpenTimeOver => "open-time-over",
            Self::ProbesSucceeded => "probes-succeeded",
            Self::HealthProbeSucceeded => "health-probe-succeeded",
            Self::Manual => "manual",
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

    /// The part of the calls that failed; `None` before the first call.
    #[must_use]
    pub fn failure_ratio(&self) -> Option<f64> {
        ratio(self.failures, self.calls)
    }

    /// The part of the calls that was slow; `None` before the first call.
    #[must_use]
    pub fn slow_ratio(&self) -> Option<f64> {
        ratio(self.slow, self.calls)
    }
}

/// Rounded once, like the literal it is compared with: three of ten is `0.3` to the last bit.
#[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 calls")]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

// === impl CircuitChange ===

impl fmt::Display for CircuitChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, cause, figures, open_for, .. } = self;
        write!(f, "{from} -> {to} ({cause}): {} of {} calls failed", figures.failures, figures.calls)?;
        match open_for {
            Some(time) => write!(f, ", open for {time:?}"),
            None => Ok(()),
        }
    }
}
