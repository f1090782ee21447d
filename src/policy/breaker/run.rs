//! Failures in a row.
//!
//! # Why are cancelled calls counted apart?
//!
//! A caller that leaves before the first data may be right (the upstream hangs) or impatient (the model thinks). A caller
//! that leaves again and again must not open the circuit for all others: so a tenant counts once in 10 s, as do all
//! callers without a tenant together, and cancelled calls count in a row only when two tenants agree, or after a minute without a sign of life from the upstream, when no
//! other caller exists that an open circuit would refuse.

use std::time::{Duration, Instant};

/// The caller of a call, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Caller {
    /// All callers without a tenant together. One of them may send another credential with each call, of which the
    /// upstream reads only one, or none.
    #[default]
    Anonymous,
    /// The hash of a tenant's name.
    Tenant(u64),
}

/// Failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Failed calls.
    failed: u32,
    /// Cancelled calls.
    cancelled: u32,
    tenants: CancelledTenants,
    /// When the first of them ended.
    since: Option<Instant>,
}

/// The current run, and the run as it would be without the successes that ended the last one.
#[derive(Debug, Default)]
pub(super) struct Streak {
    run: Run,
    interrupted: Run,
    /// Successes in a row.
    successes: u64,
}

/// The tenants whose calls were cancelled in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CancelledTenants {
    #[default]
    None,
    One(Caller),
    Several,
}

/// The tenants that recently cancelled a call.
#[derive(Debug, Default)]
pub(super) struct CancelledCalls {
    recent: Vec<(Caller, Instant)>,
}

/// One tenant counts once in this time.
const PER_TENANT: Duration = Duration::from_secs(10);
/// After a silence this long, cancelled calls of a single tenant count in a row.
const ALONE: Duration = Duration::from_secs(60);
/// With more tenants than this, cancelled calls always count.
const MAX_TENANTS: usize = 16;

// === impl Run ===

impl Run {
    /// Returns the number of failures in a row, after a silence of this length.
    pub(super) fn length(&self, silence: Duration) -> u32 {
        let agreed = self.tenants == CancelledTenants::Several || silence >= ALONE;
        self.failed.saturating_add(if agreed { self.cancelled } else { 0 })
    }

    /// How long no call has succeeded, from the first failure.
    pub(super) fn lasted(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn fail(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.failed = self.failed.saturating_add(1);
    }

    fn cancel(&mut self, caller: Caller, now: Instant) {
        self.since.get_or_insert(now);
        self.cancelled = self.cancelled.saturating_add(1);
        self.tenants = match self.tenants {
            CancelledTenants::None => CancelledTenants::One(caller),
            CancelledTenants::One(known) if known == caller => CancelledTenants::One(known),
            _ => CancelledTenants::Several,
        };
    }
}

// === impl Streak ===

impl Streak {
    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// All failures, in a row or not.
    pub(super) fn failures(&self) -> u32 {
        self.run.failed.saturating_add(self.run.cancelled)
    }

    pub(super) fn succeed(&mut self, calls: u64) {
        if self.successes == 0 {
            self.interrupted = self.run;
        }
        self.successes = self.successes.saturating_add(calls);
        self.run = Run::default();
    }

    /// Revokes a success whose call has failed later: the run that it ended continues.
    pub(super) fn take_back(&mut self) {
        if self.successes == 1 {
            self.run = self.interrupted;
        }
        self.successes = self.successes.saturating_sub(1);
    }

    pub(super) fn fail(&mut self, now: Instant) {
        self.successes = 0;
        self.run.fail(now);
    }

    pub(super) fn cancel(&mut self, caller: Caller, now: Instant) {
        self.successes = 0;
        self.run.cancel(caller, now);
    }
}

// === impl CancelledCalls ===

impl CancelledCalls {
    /// Whether a call that this caller cancelled counts.
    pub(super) fn counts(&mut self, caller: Caller, now: Instant) -> bool {
        self.recent.retain(|(_, at)| now.saturating_duration_since(*at) < PER_TENANT);
        if self.recent.iter().any(|(known, _)| *known == caller) {
            return false;
        }
        if self.recent.len() >= MAX_TENANTS {
            self.recent.remove(0);
        }
        self.recent.push((caller, now));
        true
    }
}
