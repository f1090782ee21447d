//! Log lines and metrics.

use std::error::Error;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tower_buttress::{CallInfo, Event, Observer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::args::LogFormat;
use super::events::Events;
use super::log_lines::{PlainFields, UtcTime};

/// From a cached answer to a long stream.
const BUCKETS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

const COUNTERS: [(&str, &str); 3] = [
    ("gateway_calls_total", "Ended calls, by status and outcome"),
    ("gateway_redis_operations_total", "Redis operations, by result"),
    ("tower_buttress_events_total", "Events of the layers"),
];

const GAUGES: [(&str, &str); 12] = [
    ("gateway_calls_in_flight", "Calls whose answers have not ended"),
    ("gateway_connections", "Open connections of callers"),
    ("gateway_redis_reached", "Whether Redis is reachable"),
    ("tower_buttress_memory_used_bytes", "Memory that layers hold for calls"),
    ("tower_buttress_pace_in_flight", "Calls that count against the caller's concurrency limit"),
    ("tower_buttress_pace_paused_until_seconds", "End of the pause of a rate limit, in seconds since 1970"),
    ("tower_buttress_pace_waiting", "Calls that wait for a rate limit"),
    ("tower_buttress_queue_in_flight", "Calls that hold a place at an upstream"),
    ("tower_buttress_queue_limit", "Places at an upstream"),
    ("tower_buttress_queue_waiting", "Calls that wait for a place at an upstream"),
    ("tower_buttress_supersede_in_flight", "Calls of messages of conversations"),
    ("tower_buttress_supersede_waiting", "Messages that wait for older ones of their conversation"),
];

const HISTOGRAMS: [(&str, &str); 5] = [
    ("gateway_call_seconds", "From a request's head to its answer's last byte"),
    ("gateway_first_byte_seconds", "From a request's head to its answer's first byte"),
    (REDIS, "From sending a Redis operation to its answer or timeout"),
    ("tower_buttress_call_seconds", "Calls that reached the layers, to their end"),
    ("tower_buttress_first_data_seconds", "Calls that reached the layers, to their first data"),
];

/// A Redis operation takes a fraction of a millisecond, up to `--redis-patience`.
const REDIS: &str = "gateway_redis_operation_seconds";
const REDIS_BUCKETS: [f64; 10] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];

/// The interval at which the exporter folds samples into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Forwards layer events to the page and other viewers. The layers write log lines and metrics themselves.
#[derive(Clone, Debug)]
struct Reporter {
    events: Events,
}

/// Limits log lines of one kind to one a second, so that an upstream that is down does not fill the disk.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<(Option<Instant>, u64)>);

/// The least time between two of them.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Reporter ===

impl Observer for Reporter {
    fn on_event(&self, event: &Event, call: Option<&CallInfo>) {
        self.events.log(event, call);
    }
}

// === impl Seldom ===

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Calls `write` unless the last line was written less than a second ago, with the number of lines left out since then, if
    /// there are any.
    pub(crate) fn log(&self, now: Instant, write: impl FnOnce(Option<u64>)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            *left_out = left_out.saturating_add(1);
            return;
        }
        *last = Some(now);
        let left_out = std::mem::take(left_out);
        drop(state);
        write(Some(left_out).filter(|count| *count > 0));
    }
}

/// The observer of all layers.
pub(crate) fn observer(events: &Events) -> Arc<dyn Observer> {
    Arc::new(Reporter { events: events.clone() })
}

/// Whether only the layers log inside the spans of calls, and nothing but lines of the log needs the spans.
static LATE_SPANS: AtomicBool = AtomicBool::new(false);

/// Whether to open the spans of calls only for lines of the log.
pub(crate) fn has_late_spans() -> bool {
    LATE_SPANS.load(Ordering::Relaxed)
}

/// Writes log lines to stderr, filtered by `RUST_LOG`.
pub(crate) fn log(format: LogFormat) {
    let lines = || {
        tracing_subscriber::fmt()
            .with_timer(UtcTime)
            .with_writer(std::io::stderr)
            .with_target(false)
            // Reporting a failed write on stderr would fail too, and panic.
            .log_internal_errors(false)
    };
    let text = || lines().fmt_fields(PlainFields).with_ansi(std::io::stderr().is_terminal());
    let json = || lines().json().flatten_event(true).with_span_list(false);
    // A level alone is compared; where there are directives, each span is looked up in them whenever it is entered.
    let level = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(chosen) => chosen.parse().ok(),
        Err(_) => Some(LevelFilter::INFO),
    };
    let directives = || EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails if the process has a subscriber already; then that one stays.
    let written = match (format, level) {
        (LogFormat::Text, Some(level)) => text().with_max_level(level).try_init(),
        (LogFormat::Text, None) => text().with_env_filter(directives()).try_init(),
        (LogFormat::Json, Some(level)) => json().with_max_level(level).try_init(),
        (LogFormat::Json, None) => json().with_env_filter(directives()).try_init(),
    };
    let late = written.is_ok() && level.is_some_and(|level: LevelFilter| level <= LevelFilter::INFO);
    LATE_SPANS.store(late, Ordering::Relaxed);
}

/// The metrics of this process. The first call installs the recorder.
pub(crate) fn prometheus() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let buckets = PrometheusBuilder::new().set_buckets(&BUCKETS);
        let buckets =
            buckets.and_then(|all| all.set_buckets_for_metric(Matcher::Full(REDIS.to_owned()), &REDIS_BUCKETS));
        let recorder = buckets.unwrap_or_default().build_recorder();
        let handle = recorder.handle();
        let _ = metrics::set_global_recorder(recorder);
        for (name, help) in COUNTERS {
            metrics::describe_counter!(name, help);
        }
        for (name, help) in GAUGES {
            metrics::describe_gauge!(name, help);
        }
        for (name, help) in HISTOGRAMS {
            metrics::describe_histogram!(name, help);
        }
        handle
    })
}

/// Folds samples into buckets until it is dropped.
pub(crate) async fn upkeep() {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        prometheus().run_upkeep();
    }
}

/// The error and its sources in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Some wrap an error in one with the same text.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}

/// Logs the result of reading the configuration again: the options that need a restart, or the errors.
pub(crate) fn reloaded(done: &Result<Vec<&'static str>, String>) {
    match done {
        Ok(waiting) => {
            tracing::info!("the configuration was read again");
            for name in waiting {
                tracing::warn!("the new value of {name} applies after a restart");
            }
        }
        Err(lines) => {
            for line in lines.lines() {
                tracing::error!("the configuration is unchanged: {line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_kind_come_once_a_second_and_say_how_many_were_left_out() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        let at = [0, 1, 999, 1_000, 1_001, 5_000, 6_000].map(|millis| {
            let mut written = None;
            seldom.log(start + Duration::from_millis(millis), |left_out| written = Some(left_out));
            written
        });
        assert_eq!(at, [Some(None), None, None, Some(Some(2)), None, Some(Some(1)), Some(None)]);
    }
}
