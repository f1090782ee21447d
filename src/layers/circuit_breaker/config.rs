//! The settings of a breaker.

use std::borrow::Cow;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use crate::event::Emitter;
use crate::policy::breaker::settings::BreakerSettings;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::window::CircuitWindow;
use crate::rt::layer_classifier::LayerClassifier;

/// The settings of a [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), as a plain value.
///
/// Setters take any value and move an invalid one to the nearest valid value.
///
/// ```
/// use std::time::Duration;
/// use tower_buttress::{CircuitBreakerConfig, CircuitBreakerLayer};
///
/// let config = CircuitBreakerConfig::new()
///     .consecutive_failures(3)
///     .open_duration(Duration::from_secs(2), Duration::from_secs(30));
/// let breaker = CircuitBreakerLayer::with_config(config);
/// # let _ = breaker;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitBreakerConfig {
    pub(super) settings: BreakerSettings,
    slow_after: Option<Duration>,
    slow_by: SlowCallBy,
    first_byte: Option<Duration>,
    pub(super) max_keys: NonZeroUsize,
}

/// The duration of a call that [`CircuitBreakerConfig::slow_calls`] measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowCallBy {
    /// The time to the first data of the response: a long answer is not slow.
    #[default]
    FirstData,
    /// The time to the end of the response.
    WholeBody,
}

/// The settings of one service; services share the circuits.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceConfig {
    pub(super) classifier: LayerClassifier,
    pub(super) key: Option<KeyBy>,
    pub(super) emitter: Emitter,
}

/// Finds the key of a call.
#[derive(Clone)]
pub(super) enum KeyBy {
    By(Arc<FindKey>),
    HostAndModel,
}

pub(super) type FindKey = dyn Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync;

/// A window is divided into ten buckets.
const SHORTEST_WINDOW: Duration = Duration::from_millis(10);
/// A zero open time could not be doubled.
const SHORTEST_OPEN: Duration = Duration::from_nanos(1);
/// The lowest ratio: one in a thousand.
const LEAST_RATIO: f64 = 0.001;

// === impl CircuitBreakerConfig ===

impl CircuitBreakerConfig {
    /// The defaults. The circuit opens when 70 % of at least 20 calls in a minute failed, or 5 in a row, for 5 s at first
    /// and 15 s at most.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The window of calls that are counted. Default: [`CircuitWindow::Time`] of 60 s. A time is at least 10 ms.
    #[must_use]
    pub fn window(mut self, window: CircuitWindow) -> Self {
        self.settings.window = match window {
            CircuitWindow::Time(time) => CircuitWindow::Time(time.max(SHORTEST_WINDOW)),
            calls @ CircuitWindow::Calls(_) => calls,
        };
        self
    }

    /// The number of calls that the window must hold before a ratio counts. Default: 20.
    ///
    /// A number above the size of a [window of calls](CircuitWindow::Calls) means a full window. With `u32::MAX` in a
    /// window of time only failures in a row count.
    #[must_use]
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.settings.min_calls = at_least_one(calls);
        self
    }

    /// Failure ratio at which the circuit opens. Default: 0.7. At most 1.
    ///
    /// Retries still get an answer from an upstream that fails every second call. And a small sample exceeds a low ratio
    /// by chance: of an upstream that fails 40 % of its calls, at least 10 of the first 20 fail in one case out of four.
    #[must_use]
    pub fn failure_ratio(mut self, ratio: f64) -> Self {
        self.settings.failure_ratio = clamp_ratio(ratio);
        self
    }

    /// Counts calls that take longer than `after` as slow, and opens the circuit at this ratio of slow calls. A slow
    /// probe counts as failed. Default: off.
    #[must_use]
    pub fn slow_calls(mut self, after: Duration, ratio: f64) -> Self {
        self.settings.slow_ratio = Some(clamp_ratio(ratio));
        self.slow_after = Some(after);
        self
    }

    /// Sets the duration that makes a call slow. Default: [`SlowCallBy::FirstData`].
    #[must_use]
    pub fn slow_by(mut self, slow_by: SlowCallBy) -> Self {
        self.slow_by = slow_by;
        self
    }

    /// The number of failures in a row that opens the circuit; `None`: no number does. Default: 5.
    #[must_use]
    pub fn consecutive_failures(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.settings.consecutive = failures.into().map(at_least_one);
        self
    }

    /// How long the circuit is open at first, and at most. The time doubles with each probe that gets no answer; a
    /// success resets it. Default: 5 s, 15 s. `first` is more than zero, and `longest` at least `first`.
    #[must_use]
    pub fn open_duration(mut self, first: Duration, longest: Duration) -> Self {
        self.settings.open = first.max(SHORTEST_OPEN);
        self.settings.open_max = longest.max(self.settings.open);
        self
    }

    /// The ratio of an open time by which it is extended at random, so that many clients do not probe at once. Default:
    /// 0.1. Between 0 and 1.
    #[must_use]
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.settings.jitter = if jitter > 0.0 { jitter.min(1.0) } else { 0.0 };
        self
    }

    /// The number of calls that may probe a half-open circuit at once. Default: 1.
    #[must_use]
    pub fn max_probes(mut self, probes: u32) -> Self {
        self.settings.probes = at_least_one(probes);
        self
    }

    /// The number of probes that must succeed to close the circuit. Default: [`max_probes`](Self::max_probes).
    #[must_use]
    pub fn probe_successes(mut self, successes: u32) -> Self {
        self.settings.successes = Some(at_least_one(successes));
        self
    }

    /// The time limit of probes: a [health probe](crate::CircuitBreakerLayer::health_probe) that takes longer has failed;
    /// the result of a caller's probe that takes longer is ignored. Default: 90 s.
    ///
    /// Set it above the first-byte timeout inside, or the breaker ignores slow but healthy probes.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.settings.probe_timeout = timeout;
        self
    }

    /// The [first-byte limit](crate::FirstByteTimeoutLayer) inside, by which the breaker judges calls that their callers
    /// cancel; a request's [`TimeoutProfile`] takes precedence. Presets set it.
    ///
    /// A call that its caller cancels before the first data counts as a failure if it waited for the upstream for at
    /// least half of this limit, and for at least the time of a [slow call](Self::slow_calls). If neither is set, that is
    /// 45 s.
    #[must_use]
    pub fn first_byte(mut self, limit: Duration) -> Self {
        self.first_byte = Some(limit);
        self
    }

    /// Whether the breaker only counts and reports, and never opens. Default: false.
    #[must_use]
    pub fn metrics_only(mut self, metrics_only: bool) -> Self {
        self.settings.metrics_only = metrics_only;
        self
    }

    /// The number of [keys](crate::CircuitBreakerLayer::key) with a circuit of their own. Default: 1,024. At least 1.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = NonZeroUsize::new(keys).unwrap_or(NonZeroUsize::MIN);
        self
    }

    /// Returns when a call is slow, whether its whole body counts, and how long a cancelled call must have waited to
    /// count, unless its request names a limit.
    pub(super) fn limits(&self) -> (Option<Duration>, bool, Duration) {
        let half = self.first_byte.map(|limit| limit / 2);
        let unknown = TimeoutProfile::EXTENDED_THINKING.first_byte / 2;
        let patience = half.max(self.slow_after).unwrap_or(unknown);
        (self.slow_after, self.slow_by == SlowCallBy::WholeBody, patience)
    }
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        // A thousand hosts, models or tenants take a few kilobytes each.
        const MAX_KEYS: usize = 1024;
        Self {
            settings: BreakerSettings::default(),
            slow_after: None,
            slow_by: SlowCallBy::default(),
            first_byte: None,
            max_keys: NonZeroUsize::new(MAX_KEYS).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// NaN becomes 1, the ratio that opens last.
fn clamp_ratio(ratio: f64) -> f64 {
    if ratio.is_nan() { 1.0 } else { ratio.clamp(LEAST_RATIO, 1.0) }
}

// === impl KeyBy ===

impl fmt::Debug for KeyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBy")
    }
}
