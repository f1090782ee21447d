//! Failures of a single caller.
//!
//! # Why do they not count while others are served?
//!
//! A caller can make an upstream fail: with a prompt that a model's server answers 500, or a key of its own that is
//! limited. If it does so often enough, it opens the circuit, and all others are refused. So a failure with which the
//! upstream *answered* is its caller's own matter, as long as no other caller has one and another one is served. In an
//! outage others fail too, or are not served any more. One failure of another caller makes few of one caller's count: every
//! upstream fails now and then.
//!
//! Failures without an answer count, as do probes and bodies that fail later: most of these are no caller's doing.

use std::time::{Duration, Instant};

use super::run::Caller;

/// The caller of the latest events of a kind, and when one of another caller was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LatestCallers {
    latest: Option<(Caller, Instant)>,
    /// The number of its events since.
    run: u32,
    before: Option<Instant>,
}

/// For this time after a failure of another caller, and for this many failures, a failure is not its caller's own.
const SHARED: Duration = Duration::from_secs(10);
const MAX_SHARED: u32 = 2;
/// For this time after another caller was served, a failure may be its caller's own.
pub(crate) const SERVED: Duration = Duration::from_secs(60);

// === impl LatestCallers ===

impl LatestCallers {
    pub(crate) fn note(&mut self, caller: Caller, now: Instant) {
        match self.latest.replace((caller, now)) {
            Some((before, at)) if before != caller => (self.before, self.run) = (Some(at), 1),
            _ => self.run = self.run.saturating_add(1),
        }
    }

    /// Whether a failure of this caller, which was noted, is not its own.
    pub(super) fn are_shared(&self, caller: Caller, now: Instant) -> bool {
        self.run <= MAX_SHARED && self.has_other(caller, SHARED, now)
    }

    /// Whether an event of another caller is at most this old.
    pub(crate) fn has_other(&self, caller: Caller, age: Duration, now: Instant) -> bool {
        let at = match self.latest {
            Some((latest, at)) if latest != caller => Some(at),
            _ => self.before,
        };
        at.is_some_and(|at| now.saturating_duration_since(at) <= age)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_knows_the_latest_event_of_another_caller(
            events in prop::collection::vec((0_u64..3, 0_u64..4), 0..30),
            asks in 0_u64..3,
            age in 0_u64..8,
        ) {
            let (start, mut now) = (Instant::now(), 0);
            let mut callers = LatestCallers::default();
            let mut all = vec![];
            for (caller, pause) in events {
                now += pause;
                callers.note(Caller::Tenant(caller), start + Duration::from_secs(now));
                all.push((caller, now));
            }
            let expected = all.iter().any(|(caller, at)| *caller != asks && now - at <= age);
            let (age, now) = (Duration::from_secs(age), start + Duration::from_secs(now));
            prop_assert_eq!(callers.has_other(Caller::Tenant(asks), age, now), expected);
        }
    }
}
