//! Decides when a call may be sent to an upstream with rate limits.
//!
//! One [`Pacer`] per credential and model: its buckets, its pauses, and its restart rate. Time is an argument, in
//! microseconds, so that a shared store can do the same arithmetic on its own clock.

mod bucket;
pub(crate) mod estimate;
mod pause;
mod rate;
mod turns;

pub(crate) use self::bucket::{Bucket, Demand};
pub(crate) use self::pause::Hold;
use self::pause::{PauseCheck, Pauses, Throttled};
pub use self::rate::Rate;
pub(crate) use self::turns::{NextTurn, SOON, Turns};
use super::micros::Micros;
use crate::proto::rate_limit::{Quota, Unit};

/// The state of one limit that calls share.
#[derive(Debug)]
pub(crate) struct Pacer {
    buckets: Vec<Bucket>,
    pauses: Pauses,
    tempo: Tempo,
}

/// Whether a call may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendDecision {
    Go(Grant),
    /// Ask again after this time, or when the pacer has changed.
    Wait(Micros),
}

/// A call that may be sent. It ends with one of [`Pacer::served`], [`Pacer::throttled`] and [`Pacer::give_back`]. Its
/// demand is not part of it: nearly every call has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) tenant: u64,
    pub(crate) sent: Micros,
    probe: bool,
    /// The number of buckets charged: later learned buckets already include the call.
    charged: u8,
}

/// The recent interval between served calls.
#[derive(Clone, Copy, Debug)]
struct Tempo {
    interval: Micros,
    sampled: Option<Micros>,
}

const SECOND: Micros = 1_000_000;
/// The bounds of the restart interval without a known rate: calls restart at the rate at which they were served before.
const RESTART: (Micros, Micros) = (SECOND / 100, SECOND);
/// One in this number of served calls is reported to the pacer.
pub(crate) const SAMPLE: u32 = 64;
/// More dimensions than any provider limits.
const BUCKETS: usize = 8;

// === impl Pacer ===

impl Pacer {
    pub(crate) fn new(buckets: Vec<Bucket>, cap: Micros) -> Self {
        Self { buckets, pauses: Pauses::new(cap), tempo: Tempo { interval: Micros::MAX, sampled: None } }
    }

    /// Whether a call of `tenant` may be sent. If so, takes its `demand`.
    pub(crate) fn admit(&mut self, tenant: u64, demand: Demand, now: Micros) -> SendDecision {
        if let PauseCheck::Wait(wait) = self.pauses.look(tenant, now) {
            return SendDecision::Wait(wait);
        }
        match bucket::reserve(&mut self.buckets, &demand, now) {
            Ok(()) => {
                let probe = self.pauses.send(tenant, now);
                let charged = u8::try_from(self.buckets.len()).unwrap_or(u8::MAX);
                SendDecision::Go(Grant { tenant, sent: now, probe, charged })
            }
            Err(wait) => SendDecision::Wait(wait),
        }
    }

    /// How long a call would wait behind others that take `ahead` before it. A lower bound: it does not know which
    /// calls are still to come.
    pub(crate) fn wait(&self, tenant: u64, ahead: &Demand, demand: &Demand, now: Micros) -> Micros {
        let paused = self.pauses.wait(tenant, ahead.requests, now);
        paused.max(bucket::wait(&self.buckets, ahead, demand, now))
    }

    /// After what time to ask again for a call that may not be sent now, unless the pacer changes before. A probe may end
    /// the pause much sooner, so this is no [`wait`](Self::wait) for which to refuse a call.
    pub(crate) fn next_look(&self, tenant: u64, demand: &Demand, now: Micros) -> Micros {
        let paused = match self.pauses.look(tenant, now) {
            PauseCheck::Wait(wait) => wait,
            PauseCheck::Free | PauseCheck::Restart => 0,
        };
        paused.max(bucket::wait(&self.buckets, &Demand::default(), demand, now))
    }

    /// A call was served. Returns whether other calls may be sent because of it.
    pub(crate) fn served(&mut self, grant: &Grant) -> bool {
        self.pauses.passed(grant.tenant, grant.sent)
    }

    /// Whether [`served`](Self::served) would change nothing, whichever call was.
    pub(crate) fn is_calm(&self) -> bool {
        self.pauses.is_calm()
    }

    /// Another [`SAMPLE`] of calls was served.
    pub(crate) fn sample(&mut self, now: Micros) {
        let apart = |sampled| now.saturating_sub(sampled) / u64::from(SAMPLE);
        self.tempo = Tempo { interval: self.tempo.sampled.map_or(Micros::MAX, apart), sampled: Some(now) };
    }

    /// Notes a 429 to a call that took `demand`. Returns until when all calls are paused, if that is new.
    pub(crate) fn throttled(
        &mut self,
        grant: &Grant,
        demand: &Demand,
        hint: Option<Micros>,
        now: Micros,
    ) -> Option<Micros> {
        let Grant { tenant, sent, .. } = *grant;
        // It was a request; its tokens were not used.
        self.settle(grant, demand, &Demand { requests: demand.requests, ..Demand::default() }, now);
        let interval = self.restart_interval(now);
        let until = self.pauses.throttled(&Throttled { tenant, hint, sent, interval }, now)?;
        for bucket in &mut self.buckets {
            bucket.empty(demand, until);
        }
        Some(until)
    }

    /// Whether one call will find out that the pause of all is over.
    pub(crate) fn finds_out(&self) -> bool {
        self.pauses.finds_out()
    }

    /// Pauses for another process's 429 on the same limit; `finds_out`: the upstream may want longer.
    pub(crate) fn pause(&mut self, wait: Micros, finds_out: bool, now: Micros) {
        let interval = self.restart_interval(now);
        let Some(until) = self.pauses.pause(wait, finds_out, interval, now) else { return };
        for bucket in &mut self.buckets {
            bucket.empty(&Demand::REQUEST, until);
        }
    }

    /// Without an interval, all calls that wait for one instant would get the next 429 together.
    fn restart_interval(&self, now: Micros) -> Micros {
        let is_spaced = self.buckets.iter().any(|bucket| bucket.unit == Unit::Requests);
        if is_spaced { 0 } else { self.tempo.interval(now).clamp(RESTART.0, RESTART.1) }
    }

    /// The call, which took `demand`, was not sent, or its result is unknown.
    pub(crate) fn give_back(&mut self, grant: &Grant, demand: &Demand, was_sent: bool, now: Micros) {
        if !was_sent {
            self.settle(grant, demand, &Demand::default(), now);
        }
        if grant.probe {
            self.pauses.give_back(grant.tenant);
        }
    }

    /// The most tokens of a single call: those that the tightest limit allows in its period, or in a minute.
    pub(crate) fn most_tokens(&self) -> u64 {
        let of_tokens = self.buckets.iter().filter(|bucket| bucket.unit != Unit::Requests);
        of_tokens.map(Bucket::most).min().unwrap_or(u64::MAX)
    }

    /// Corrects the charge of a call, which took `reserved`, to its usage.
    pub(crate) fn settle(&mut self, grant: &Grant, reserved: &Demand, used: &Demand, now: Micros) {
        for bucket in self.buckets.iter_mut().take(grant.charged.into()) {
            bucket.settle(reserved, used, grant.sent, now);
        }
    }

    /// Applies an answer's reported limits; `learn`: also new ones.
    pub(crate) fn observe(&mut self, quotas: &[Quota], learn: bool, now: Micros) {
        for quota in quotas {
            let mut known = false;
            for bucket in self.buckets.iter_mut().filter(|bucket| bucket.is_reported_by(quota)) {
                known = true;
                bucket.observe(quota, now);
            }
            if learn && !known && self.buckets.len() < BUCKETS {
                self.buckets.extend(bucket::learned(quota, now));
            }
        }
    }

    /// Until when all calls are paused; in the past if they are not.
    pub(crate) fn paused_until(&self) -> Micros {
        self.pauses.until()
    }

    pub(crate) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Whether it holds no state that matters, and may be evicted: upstreams report their limits again.
    pub(crate) fn is_idle(&mut self, now: Micros) -> bool {
        self.pauses.forget(now) && self.buckets.iter().all(|bucket| bucket.full_at() <= now)
    }

    /// Whether every call may be sent until the upstream refuses one.
    pub(crate) fn is_open(&mut self, now: Micros) -> bool {
        self.pauses.forget(now) && self.buckets.is_empty()
    }

    /// Returns what holds a call of `tenant` back, independent of the buckets.
    pub(crate) fn hold(&self, tenant: u64, now: Micros) -> Hold {
        self.pauses.hold(tenant, now)
    }

    /// Whether a tenant waits for a reason of its own.
    pub(crate) fn is_paused_alone(&self, tenant: u64, now: Micros) -> bool {
        self.pauses.is_paused_alone(tenant, now)
    }
}

// === impl Grant ===

impl Grant {
    /// The grant of a call that was sent without limits.
    pub(crate) const fn unlimited(tenant: u64) -> Self {
        Self { tenant, sent: 0, probe: false, charged: 0 }
    }
}

// === impl Tempo ===

impl Tempo {
    /// The last measured interval, or a longer one if no sample of calls was served for that long.
    fn interval(&self, now: Micros) -> Micros {
        let since = self.sampled.map_or(Micros::MAX, |sampled| now.saturating_sub(sampled) / u64::from(SAMPLE));
        self.interval.max(since)
    }
}

#[cfg(test)]
mod tests;
