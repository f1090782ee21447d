//! The events that layers log.
//!
//! A successful call emits no event. A layer that refuses, gives up, or passes a call untouched builds one [`Event`] and
//! hands it to the feature `tracing`, the feature `metrics`, and the layer's own [`Observer`], in this order.
//!
//! With the feature `tracing` an event is a line: at WARN if a caller notices it (at most one per second and kind, with
//! the count of omitted lines), at INFO if a layer acted on it, at DEBUG if it is ordinary. With the feature `metrics` it
//! is counted in `tower_buttress_events_total`, by `event` and `detail`, and by `stack` inside a named
//! [`ObserveLayer`](crate::ObserveLayer).

#[cfg(feature = "tracing")]
mod log;
mod observer;
#[cfg(feature = "tracing")]
pub(crate) mod span;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::observer::Observer;
pub(crate) use self::observer::{Emitter, Observers};

use crate::call::{OutputFault, StaleKind};
use crate::error::{InvalidConfig, Rounded};
use crate::policy::breaker::report::{CircuitChange, CircuitReason, CircuitStats};
use crate::policy::resume::{NotResumed, ResumedBy};
use crate::policy::retry::NotRetried;
use crate::rejection::RejectionKind;

/// Something that a layer did and that is worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A layer answered in the upstream's place.
    #[non_exhaustive]
    Refused {
        /// Why.
        kind: RejectionKind,
    },
    /// A layer ended a response body with an error, because a time limit was reached.
    #[non_exhaustive]
    BodyTimedOut {
        /// The layer that gave up.
        layer: &'static str,
        /// Its limit.
        after: Duration,
    },
    /// A connection was not made within the limit.
    #[non_exhaustive]
    ConnectElapsed {
        /// The limit.
        after: Duration,
    },
    /// An attempt failed, and the layer makes another.
    #[non_exhaustive]
    RetryScheduled {
        /// The number of the next attempt.
        attempt: u32,
        /// The wait before it.
        wait: Duration,
    },
    /// An attempt failed with an error that a retry might fix, and the layer makes no other attempt.
    #[non_exhaustive]
    NotRetried {
        /// Why.
        reason: NotRetried,
    },
    /// The primary could not serve a call, and the layer asks a backup.
    #[non_exhaustive]
    FallbackUsed {
        /// Its name.
        to: Arc<str>,
    },
    /// A backup could not serve a call either.
    #[non_exhaustive]
    BackupFailed {
        /// Its name.
        name: Arc<str>,
    },
    /// A circuit changed its state.
    #[non_exhaustive]
    CircuitChanged {
        /// Its key, where it has one.
        key: Option<Arc<str>>,
        /// What changed, and why.
        change: CircuitChange,
    },
    /// A circuit that only observes would have opened.
    #[non_exhaustive]
    CircuitWouldOpen {
        /// Its key, where it has one.
        key: Option<Arc<str>>,
        /// The threshold that was reached.
        reason: CircuitReason,
        /// The calls that the circuit had counted.
        stats: CircuitStats,
    },
    /// A duplicate request joined a call already in flight.
    FlightJoined,
    /// A request got the stored answer to an earlier request.
    #[non_exhaustive]
    Replayed {
        /// The age of that answer.
        age: Duration,
    },
    /// An upstream call was cancelled because its last client left.
    FlightAbandoned,
    /// A caller came back to an answer, at the URL that the layer gave it.
    FlightResumed,
    /// A caller stopped an upstream call, at the URL of its answer.
    FlightStopped,
    /// The upstreams gave no answer, and the layer returned an earlier one.
    #[non_exhaustive]
    StaleServed {
        /// What the returned answer was an answer to.
        kind: StaleKind,
        /// The age of that answer.
        age: Duration,
    },
    /// A heartbeat went out on a silent event stream.
    HeartbeatSent,
    /// An upstream is overloaded: all calls with the same credential wait.
    #[non_exhaustive]
    Paused {
        /// How long.
        wait: Duration,
    },
    /// A preset was built with a setting that cannot work.
    #[non_exhaustive]
    Misconfigured {
        /// What is wrong.
        error: InvalidConfig,
    },
    /// The concurrency limit that a layer adapts to the upstream has changed.
    #[non_exhaustive]
    ConcurrencyChanged {
        /// The new limit on calls in flight.
        limit: u32,
    },
    /// An answer was ended because a newer message of its conversation came, or because the call was cancelled.
    Superseded,
    /// An LLM API answered with an error or with a truncated answer.
    #[non_exhaustive]
    StreamFailed {
        /// What was wrong with it.
        fault: StreamFault,
    },
    /// A stream broke, and its rest follows in the same body.
    #[non_exhaustive]
    StreamResumed {
        /// How.
        by: ResumedBy,
    },
    /// A stream broke that might have been continued, and the caller gets the error.
    #[non_exhaustive]
    NotResumed {
        /// Why.
        reason: NotResumed,
    },
    /// An answer is not in the form that the request asked for.
    #[non_exhaustive]
    OutputInvalid {
        /// What is wrong with it.
        fault: OutputFault,
        /// Whether the layer asks the model again, naming the fault.
        asked_again: bool,
    },
    /// A layer met something it cannot handle, and passed it untouched.
    #[non_exhaustive]
    Bypassed {
        /// The layer.
        layer: &'static str,
        /// What it met.
        reason: &'static str,
    },
    /// A backend that several processes share became reachable, or unreachable. While it is unreachable this process
    /// works alone. Made with [`backend_changed`](Self::backend_changed).
    #[non_exhaustive]
    BackendChanged {
        /// Its name: `"redis"`.
        backend: &'static str,
        /// Whether it can be reached.
        reached: bool,
        /// Why it cannot be reached; empty if it can.
        why: Arc<str>,
    },
    /// A backend that several processes share is reachable, and refuses operations: its memory is full. At most one event
    /// in 10 s. Made with [`backend_refused`](Self::backend_refused).
    #[non_exhaustive]
    BackendRefused {
        /// Its name: `"redis"`.
        backend: &'static str,
        /// Its words.
        why: Arc<str>,
    },
}

/// What was wrong with the answer of an LLM API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamFault {
    /// It contained an error.
    UpstreamError,
    /// It ended before it was complete.
    Truncated,
}

// === impl Event ===

impl Event {
    /// A stable name, the `event` label of the feature `metrics`: `"refused"`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::BodyTimedOut { .. } => "body_timed_out",
            Self::ConnectElapsed { .. } => "connect_elapsed",
            Self::RetryScheduled { .. } => "retry_scheduled",
            Self::NotRetried { .. } => "not_retried",
            Self::FallbackUsed { .. } => "fallback_used",
            Self::BackupFailed { .. } => "backup_failed",
            Self::CircuitChanged { .. } => "circuit_changed",
            Self::CircuitWouldOpen { .. } => "circuit_would_open",
            Self::FlightJoined => "flight_joined",
            Self::Replayed { .. } => "replayed",
            Self::FlightAbandoned => "flight_abandoned",
            Self::FlightResumed => "flight_resumed",
            Self::FlightStopped => "flight_stopped",
            Self::StaleServed { .. } => "stale_served",
            Self::HeartbeatSent => "heartbeat_sent",
            Self::Paused { .. } => "paused",
            Self::Misconfigured { .. } => "misconfigured",
            Self::ConcurrencyChanged { .. } => "concurrency_changed",
            Self::Superseded => "superseded",
            Self::StreamFailed { .. } => "stream_failed",
            Self::StreamResumed { .. } => "stream_resumed",
            Self::NotResumed { .. } => "not_resumed",
            Self::OutputInvalid { asked_again: true, .. } => "output_asked_again",
            Self::OutputInvalid { .. } => "output_invalid",
            Self::Bypassed { .. } => "bypassed",
            Self::BackendChanged { .. } => "backend_changed",
            Self::BackendRefused { .. } => "backend_refused",
        }
    }

    /// Tells events of one name apart, with few values: the reason of a refusal, the state entered, or the layer.
    #[must_use]
    pub const fn detail(&self) -> &'static str {
        match self {
            Self::Refused { kind } => kind.as_str(),
            Self::BodyTimedOut { layer, .. } | Self::Bypassed { layer, .. } => layer,
            Self::ConnectElapsed { .. } => "connect-timeout",
            Self::RetryScheduled { .. } => "retry-after-backoff",
            Self::NotRetried { reason } => reason.as_str(),
            Self::FallbackUsed { .. } | Self::BackupFailed { .. } => "fallback",
            Self::CircuitChanged { change, .. } => change.to.as_str(),
            Self::CircuitWouldOpen { reason, .. } => reason.as_str(),
            Self::FlightJoined
            | Self::Replayed { .. }
            | Self::FlightAbandoned
            | Self::FlightResumed
            | Self::FlightStopped => "dedup",
            Self::StaleServed { kind, .. } => kind.as_str(),
            Self::HeartbeatSent => "sse-heartbeat",
            Self::Paused { .. } => "pace",
            Self::Misconfigured { error } => error.setting(),
            Self::ConcurrencyChanged { .. } => "queue",
            Self::Superseded => "supersede",
            Self::StreamFailed { fault } => fault.as_str(),
            Self::OutputInvalid { fault, .. } => fault.as_str(),
            Self::StreamResumed { by } => by.as_str(),
            Self::NotResumed { reason } => reason.as_str(),
            Self::BackendChanged { reached: true, .. } => "reached",
            Self::BackendChanged { reached: false, .. } => "unreachable",
            Self::BackendRefused { backend, .. } => backend,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { kind } => write!(f, "refused: {kind}"),
            Self::BodyTimedOut { layer, after } => write!(f, "{layer}: body ended after {}", Rounded(*after)),
            Self::ConnectElapsed { after } => write!(f, "no connection within {}", Rounded(*after)),
            Self::RetryScheduled { attempt, wait } => write!(f, "attempt {attempt} in {}", Rounded(*wait)),
            Self::NotRetried { reason } => write!(f, "not retried: {reason}"),
            Self::FallbackUsed { to } => write!(f, "fell back to {to}"),
            Self::BackupFailed { name } => write!(f, "backup {name} failed too"),
            Self::CircuitChanged { key, change } => write!(f, "circuit{}: {change}", Keyed(key.as_deref())),
            Self::CircuitWouldOpen { key, reason, stats } => write!(
                f,
                "circuit{} would have opened ({reason}): {} of {} calls failed",
                Keyed(key.as_deref()),
                stats.failures,
                stats.calls,
            ),
            Self::FlightJoined => f.write_str("dedup: joined a call already in flight"),
            Self::Replayed { age } => write!(f, "dedup: replayed an answer {} old", Rounded(*age)),
            Self::FlightAbandoned => f.write_str("dedup: upstream call cancelled, no clients left"),
            Self::FlightResumed => f.write_str("dedup: a client came back to its answer"),
            Self::FlightStopped => f.write_str("dedup: upstream call cancelled, a client stopped it"),
            Self::StaleServed { kind, age } => {
                write!(f, "last-good: returned an answer {} old ({kind})", Rounded(*age))
            }
            Self::HeartbeatSent => f.write_str("heartbeat sent"),
            Self::Paused { wait } => write!(f, "pace: paused for {}", Rounded(*wait)),
            Self::Misconfigured { error } => error.fmt(f),
            Self::ConcurrencyChanged { limit } => write!(f, "queue: {limit} calls at a time"),
            Self::Superseded => f.write_str("supersede: an answer was ended"),
            Self::StreamFailed { fault } => write!(f, "stream-guard: {fault}"),
            Self::StreamResumed { by } => write!(f, "resume: continued {by}"),
            Self::NotResumed { reason } => write!(f, "resume: not continued: {reason}"),
            Self::OutputInvalid { fault, asked_again } => {
                let then = if *asked_again { "; asked again" } else { "" };
                write!(f, "structured-output: {fault}{then}")
            }
            Self::Bypassed { layer, reason } => write!(f, "{layer}: bypassed: {reason}"),
            Self::BackendChanged { backend, reached: true, .. } => write!(f, "{backend}: reached again"),
            Self::BackendChanged { backend, reached: false, why } => write!(f, "{backend}: unreachable: {why}"),
            Self::BackendRefused { backend, why } => write!(f, "{backend}: refuses: {why}"),
        }
    }
}

// === impl StreamFault ===

impl StreamFault {
    /// A stable name, for metrics: `"truncated"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamError => "upstream-error",
            Self::Truncated => "truncated",
        }
    }
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpstreamError => "the answer contains an error",
            Self::Truncated => "the answer ended before it was complete",
        })
    }
}

/// ` of <key>`, or nothing.
struct Keyed<'a>(Option<&'a str>);

impl fmt::Display for Keyed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| write!(f, " of {key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::policy::breaker::report::CircuitState;

    /// A stable shape for people who read the log and for tools that search it.
    #[test]
    fn a_line_is_in_one_shape_and_its_times_are_rounded() {
        let time = Duration::from_nanos(1_234_567_891);
        let change = CircuitChange {
            from: CircuitState::Closed,
            to: CircuitState::Open,
            reason: CircuitReason::ConsecutiveFailures,
            stats: CircuitStats::default(),
            open_for: Some(time),
            generation: 1,
        };
        let timed = [
            Event::BodyTimedOut { layer: "deadline", after: time },
            Event::ConnectElapsed { after: time },
            Event::RetryScheduled { attempt: 2, wait: time },
            Event::CircuitChanged { key: Some("api".into()), change },
            Event::Replayed { age: time },
            Event::StaleServed { kind: StaleKind::Exact, age: time },
            Event::Paused { wait: time },
        ];
        let others = [
            Event::Refused { kind: RejectionKind::Paced },
            Event::NotRetried { reason: NotRetried::Budget },
            Event::FallbackUsed { to: "b".into() },
            Event::BackupFailed { name: "b".into() },
            Event::FlightJoined,
            Event::FlightAbandoned,
            Event::FlightResumed,
            Event::FlightStopped,
            Event::HeartbeatSent,
            Event::ConcurrencyChanged { limit: 3 },
            Event::Superseded,
            Event::StreamFailed { fault: StreamFault::Truncated },
            Event::Bypassed { layer: "dedup", reason: "a request without a length" },
            Event::BackendChanged { backend: "redis", reached: true, why: "".into() },
            Event::BackendChanged { backend: "redis", reached: false, why: "no answer".into() },
            Event::BackendRefused { backend: "redis", why: "no memory".into() },
        ];
        for line in timed.iter().map(ToString::to_string) {
            assert!(line.contains("1.2s"), "{line}");
        }
        for line in timed.iter().chain(&others).map(ToString::to_string) {
            assert!(line.starts_with(|first: char| first.is_ascii_lowercase()) && !line.ends_with('.'), "{line}");
        }
    }
}
