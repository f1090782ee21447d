//! The probes of a half-open circuit.
//!
//! # Why waves?
//!
//! If a hung upstream does not answer a probe, the probe has no result until its time limit, and a recovery in the
//! meantime would stay unknown. So a wave of probes does not block the circuit: when its open time is over, the next wave
//! may start, whatever the state of the one before. The first answer decides.

use std::time::{Duration, Instant};

use super::settings::BreakerSettings;
use crate::policy::instant::saturating_add;
use crate::policy::window::{Sample, Tally};

#[derive(Debug)]
pub(super) struct HalfOpen {
    probes: Vec<Probe>,
    last_id: u32,
    wave: u32,
    wave_began: Instant,
    /// When the next wave may start.
    next_wave: Instant,
    succeeded: u32,
    seen: Tally,
}

#[derive(Debug)]
struct Probe {
    id: u32,
    wave: u32,
    began: Instant,
}

/// The decision of a half-open circuit on a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeAdmission {
    Probe {
        id: u32,
    },
    /// All probes are in flight, and the next wave is due after this time.
    Wait {
        at_most: Duration,
    },
    /// All probes are in flight, and the next wave is due: [begin](HalfOpen::begin_wave) it first.
    Overdue,
}

// === impl HalfOpen ===

impl HalfOpen {
    /// Begins the first wave; it may take `open_time`.
    pub(super) fn new(now: Instant, open_time: Duration) -> Self {
        let next_wave = saturating_add(now, open_time);
        Self {
            probes: Vec::new(),
            last_id: 0,
            wave: 0,
            wave_began: now,
            next_wave,
            succeeded: 0,
            seen: Tally::default(),
        }
    }

    pub(super) fn begin_wave(&mut self, now: Instant, open_time: Duration) {
        self.wave = self.wave.wrapping_add(1);
        self.wave_began = now;
        self.next_wave = saturating_add(now, open_time);
    }

    pub(super) fn admit(&mut self, settings: &BreakerSettings, now: Instant) -> ProbeAdmission {
        let limit = settings.probe_timeout;
        self.probes.retain(|probe| now.saturating_duration_since(probe.began) < limit);
        if self.in_wave() < settings.probes.get() {
            self.last_id = self.last_id.wrapping_add(1);
            self.probes.push(Probe { id: self.last_id, wave: self.wave, began: now });
            return ProbeAdmission::Probe { id: self.last_id };
        }
        match self.next_wave.saturating_duration_since(now) {
            Duration::ZERO => ProbeAdmission::Overdue,
            at_most => ProbeAdmission::Wait { at_most },
        }
    }

    /// Counts a probe's result, and returns how many have succeeded.
    pub(super) fn note(&mut self, sample: Sample) -> u32 {
        self.seen.add(sample);
        self.succeeded = self.succeeded.saturating_add(u32::from(!sample.is_bad()));
        self.succeeded
    }

    /// Removes the probe. Returns whether it decides: `None` if it is no longer known, false if a later wave is in
    /// flight.
    pub(super) fn remove(&mut self, id: u32) -> Option<bool> {
        let place = self.probes.iter().position(|probe| probe.id == id)?;
        let probe = self.probes.swap_remove(place);
        Some(probe.wave == self.wave || self.in_wave() == 0)
    }

    pub(super) fn probes(&self) -> usize {
        self.probes.len()
    }

    pub(super) fn wave_began(&self) -> Instant {
        self.wave_began
    }

    pub(super) fn seen(&self) -> Tally {
        self.seen
    }

    /// The number of probes of this wave in flight.
    fn in_wave(&self) -> u32 {
        let probes = self.probes.iter().filter(|probe| probe.wave == self.wave).count();
        u32::try_from(probes).unwrap_or(u32::MAX)
    }
}
