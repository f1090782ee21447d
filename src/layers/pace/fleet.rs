//! The share of a call in rates that several processes share.

use std::fmt;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::config::Peers;
use super::key::Limit;
use super::report::peer_limit;
use crate::policy::pace::{Bucket, Demand};
use crate::proto::rate_limit::Unit;
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::store::pace::{PeerLimit, PeerReserving, PeerTurn, RateCost};

/// A call that asks the other processes.
pub(super) struct Asking {
    reserved: Reserved,
    turn: PeerReserving,
    /// The time limit for the peers' answer.
    pub(super) until: Option<Instant>,
}

/// A call's part of the shared rates.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) reserved: Option<Box<Reserved>>,
    /// The number of equal parts of the rates, of which this process has one. 1: they are shared, or its own.
    pub(super) processes: u32,
}

/// The reservation of a call. Dropping it returns it.
#[derive(Debug)]
pub(super) struct Reserved {
    peers: Peers,
    limit: PeerLimit,
    key: ThreadArc<Limit>,
    costs: Vec<RateCost>,
}

/// Peers that take longer are not asked again for this call.
const LONGEST: Duration = Duration::from_secs(1);

// === impl Asking ===

impl Asking {
    /// All calls are paused for another `pause`. `None`: the key belongs to this process alone.
    pub(super) fn begin(
        key: &ThreadArc<Limit>,
        demand: &Demand,
        pause: Duration,
        patience: Duration,
        now: Instant,
    ) -> Option<Self> {
        let peers = key.config().peers.clone()?;
        let limit = peer_limit(key)?;
        let costs = costs(key, demand);
        let turn = peers.0.reserve(limit.clone(), with_levels(key, demand, costs.clone(), now), pause, patience);
        let reserved = Reserved { peers, limit, key: key.clone(), costs };
        Some(Self { reserved, turn, until: now.checked_add(LONGEST) })
    }

    /// The peers take too long.
    pub(super) fn late_turn(&self) -> PeerTurn {
        PeerTurn::Alone { processes: self.reserved.peers.0.processes() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PeerTurn> {
        self.turn.as_mut().poll(cx)
    }

    /// Takes the result of the request.
    pub(super) fn share(self, turn: PeerTurn) -> Share {
        match turn {
            PeerTurn::Go { .. } => Share { reserved: Some(Box::new(self.reserved)), processes: 1 },
            PeerTurn::Alone { processes } => {
                self.reserved.keep();
                Share::alone(processes)
            }
            PeerTurn::TooLong { .. } => {
                self.reserved.keep();
                Share::default()
            }
        }
    }

    /// Nothing is taken.
    pub(super) fn give_up(self) {
        self.reserved.keep();
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("reserved", &self.reserved).finish_non_exhaustive()
    }
}

// === impl Share ===

impl Share {
    /// Used while the peers are unreachable.
    pub(super) fn alone(processes: u32) -> Self {
        Self { reserved: None, processes: processes.max(1) }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { reserved: None, processes: 1 }
    }
}

// === impl Reserved ===

impl Reserved {
    /// All of it was used.
    pub(super) fn keep(mut self) {
        self.costs = Vec::new();
    }

    /// This was used.
    pub(super) fn settle(mut self, used: &Demand) {
        let (reserved, used) = (std::mem::take(&mut self.costs), costs(&self.key, used));
        if reserved != used {
            self.peers.0.settle(self.limit.clone(), reserved, used);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.costs.is_empty() {
            self.peers.0.settle(self.limit.clone(), std::mem::take(&mut self.costs), Vec::new());
        }
    }
}

/// The cost of `demand` for each set rate.
fn costs(key: &Limit, demand: &Demand) -> Vec<RateCost> {
    key.with_buckets(clock::now(), |buckets, _, _| {
        let cost = |bucket: &Bucket| {
            RateCost::new(name(bucket), Duration::from_micros(bucket.cost(demand)), bucket.fills_in())
        };
        buckets.iter().filter(|bucket| bucket.is_configured()).map(cost).collect()
    })
}

/// Adds the level of each rate, as known here.
fn with_levels(key: &Limit, demand: &Demand, costs: Vec<RateCost>, now: Instant) -> Vec<RateCost> {
    key.with_buckets(now, |buckets, now, _| {
        let configured = buckets.iter().filter(|bucket| bucket.is_configured());
        let level = |bucket: &Bucket| Duration::from_micros(bucket.level(demand, now));
        costs.into_iter().zip(configured).map(|(cost, bucket)| cost.with_level(level(bucket))).collect()
    })
}

fn name(bucket: &Bucket) -> String {
    let unit = match bucket.unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
        Unit::InputTokens => "input-tokens",
        Unit::OutputTokens => "output-tokens",
    };
    // A rate may be set twice with the same unit and period.
    format!("{unit}-{}-{}", bucket.units(), bucket.per())
}
