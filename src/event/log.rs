//! Events as lines of `tracing`. The span that an `ObserveLayer` opened says which call they are about.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;

use super::{Event, span};
use crate::call::CallInfo;
use crate::policy::breaker::report::CircuitState;
use crate::rt::clock;
use crate::rt::sync::{Mutex, lock};

/// The shortest time between two warnings of one kind.
const PAUSE: Duration = Duration::from_secs(1);

/// The last warning of each kind, by name and detail, which are few and fixed.
#[derive(Default)]
struct Warnings(HashMap<(&'static str, &'static str), Warned>);

struct Warned {
    last: Instant,
    left_out: u64,
}

enum Level {
    Warn,
    Info,
    Debug,
}

pub(super) fn line(event: &Event, call: Option<&CallInfo>) {
    let (name, detail, level) = (event.name(), event.detail(), level(event));
    // Without a subscriber the macros may write to `log`.
    if LevelFilter::current() < level.filter() && tracing::dispatcher::has_been_set() {
        return;
    }
    let _span = call.map(|call| span::late(call).entered());
    match level {
        Level::Debug => tracing::debug!(event = name, detail, "{event}"),
        Level::Info => tracing::info!(event = name, detail, "{event}"),
        Level::Warn => match warning(name, detail) {
            None => {}
            Some(0) => tracing::warn!(event = name, detail, "{event}"),
            Some(left_out) => tracing::warn!(event = name, detail, left_out, "{event}"),
        },
    }
}

fn level(event: &Event) -> Level {
    match event {
        Event::HeartbeatSent
        | Event::Bypassed { .. }
        | Event::FlightJoined
        | Event::FlightResumed
        | Event::Replayed { .. } => Level::Debug,
        Event::Refused { .. }
        | Event::BodyTimedOut { .. }
        | Event::ConnectElapsed { .. }
        | Event::BackupFailed { .. }
        | Event::StreamFailed { .. }
        | Event::Misconfigured { .. }
        | Event::BackendChanged { reached: false, .. }
        | Event::BackendRefused { .. } => Level::Warn,
        Event::CircuitChanged { change, .. } if change.to == CircuitState::Open => Level::Warn,
        _ => Level::Info,
    }
}

/// Returns how many warnings of this kind were omitted since the last line; `None` to omit this one too.
fn warning(name: &'static str, detail: &'static str) -> Option<u64> {
    static WARNINGS: Mutex<Option<Warnings>> = Mutex::new(None);
    let now = clock::now();
    lock(&WARNINGS).get_or_insert_default().note((name, detail), now)
}

// === impl Level ===

impl Level {
    const fn filter(&self) -> LevelFilter {
        match self {
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

// === impl Warnings ===

impl Warnings {
    fn note(&mut self, kind: (&'static str, &'static str), now: Instant) -> Option<u64> {
        let Some(warned) = self.0.get_mut(&kind) else {
            self.0.insert(kind, Warned { last: now, left_out: 0 });
            return Some(0);
        };
        // The clock of a test, or of another runtime, may be behind: then the line is written.
        if now.checked_duration_since(warned.last).is_some_and(|since| since < PAUSE) {
            warned.left_out = warned.left_out.saturating_add(1);
            return None;
        }
        warned.last = now;
        Some(std::mem::take(&mut warned.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_kind_are_counted_for_a_second() {
        let mut warnings = Warnings::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let refused = ("refused", "circuit-open");
        assert_eq!(warnings.note(refused, at(0)), Some(0));
        assert_eq!(warnings.note(refused, at(10)), None);
        assert_eq!(warnings.note(refused, at(999)), None);
        assert_eq!(warnings.note(("refused", "paced"), at(999)), Some(0), "another kind");
        assert_eq!(warnings.note(refused, at(1_000)), Some(2));
        assert_eq!(warnings.note(refused, at(2_500)), Some(0));
    }
}
