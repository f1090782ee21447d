//! The probes of a half-open circuit.
//!
//! # Why a list, and not a count?
//!
//! A count of permits cannot tell a probe that the upstream keeps waiting from one whose own consumer has walked off
//! with the response in its hand. The first says that the upstream is still down. The second says nothing, and must not
//! hold the only permit for ever.

use std::time::{Duration, Instant};

use super::Role;
use super::settings::Settings;
use crate::policy::idle::Idle;
use crate::policy::window::{Sample, Tally};

#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    probes: Vec<Probe>,
    last_id: u32,
    good: u32,
    seen: Tally,
}

#[derive(Debug)]
struct Probe {
    id: u32,
    /// How long the upstream has kept it waiting.
    upstream: Idle,
    /// Since when its consumer has; `None` while it waits for the upstream.
    consumer: Option<Instant>,
}

/// Whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeAdmission {
    /// The caller's.
    Probe { id: u32 },
    /// Nobody's: the probes that are on their way will be settled, or given up, in this time.
    Wait { at_most: Duration },
    /// A probe has waited for the upstream too long.
    TimedOut,
}

// === impl HalfOpen ===

impl HalfOpen {
    pub(super) fn turn(&mut self, settings: &Settings, now: Instant) -> ProbeAdmission {
        let limit = settings.probe_timeout;
        if self.probes.iter().any(|probe| probe.upstream.until(limit).is_some_and(|at| now >= at)) {
            return ProbeAdmission::TimedOut;
        }
        self.probes.retain(|probe| !probe.is_forgotten(limit, now));
        let bound = usize::try_from(settings.probes.get()).unwrap_or(usize::MAX);
        if self.probes.len() < bound {
            self.last_id = self.last_id.wrapping_add(1);
            self.probes.push(Probe { id: self.last_id, upstream: Idle::default(), consumer: Some(now) });
            return ProbeAdmission::Probe { id: self.last_id };
        }
        let left = self.probes.iter().map(|probe| probe.left(limit, now)).min();
        ProbeAdmission::Wait { at_most: left.unwrap_or(limit) }
    }

    /// Notes how a probe ended, and says how many have succeeded.
    pub(super) fn note(&mut self, sample: Sample) -> u32 {
        self.seen.add(sample);
        self.good = self.good.saturating_add(u32::from(!sample.is_bad()));
        self.good
    }

    pub(super) fn waits(&mut self, role: Role, now: Instant) {
        if let Some(probe) = self.find(role) {
            probe.upstream.waiting(|| now);
            probe.consumer = None;
        }
    }

    pub(super) fn rests(&mut self, role: Role, now: Instant) {
        if let Some(probe) = self.find(role) {
            probe.upstream.interrupted(now);
            probe.consumer.get_or_insert(now);
        }
    }

    /// Whether it was still there.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let place = self.probes.iter().position(|probe| probe.id == id);
        place.map(|place| self.probes.swap_remove(place)).is_some()
    }

    pub(super) fn knows(&mut self, role: Role) -> bool {
        self.find(role).is_some()
    }

    pub(super) fn probes(&self) -> usize {
        self.probes.len()
    }

    pub(super) fn seen(&self) -> Tally {
        self.seen
    }

    fn find(&mut self, role: Role) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|probe| role == Role::Probe { id: probe.id })
    }
}

// === impl Probe ===

impl Probe {
    /// Its consumer has not asked for more for so long that it may never do.
    fn is_forgotten(&self, limit: Duration, now: Instant) -> bool {
        self.consumer.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    fn left(&self, limit: Duration, now: Instant) -> Duration {
        let until = match self.consumer {
            Some(since) => since.checked_add(limit),
            None => self.upstream.until(limit),
        };
        until.map_or(limit, |at| at.saturating_duration_since(now))
    }
}
