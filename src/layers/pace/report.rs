//! Reports a limit to callers, other processes and metrics.

use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;

use super::config::Config;
use super::key::Limit;
use crate::admission::{gauge, gauge_add};
use crate::event::Event;
use crate::proto::rate_limit::{self, Policy, RATE_LIMIT, RATE_LIMIT_POLICY, Unit};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::store::pace::{Pausing, PeerLimit, PeerPause};

/// When a caller that is refused for its concurrency may retry.
const SOON: Duration = Duration::from_secs(1);

// === impl Limit ===

impl Limit {
    /// Whether its calls take their turns among those of other processes.
    pub(super) fn shares_rates(&self) -> bool {
        let Config { peers, rates, .. } = self.config();
        !rates.is_empty() && self.id().is_some() && peers.as_ref().is_some_and(|peers| peers.0.shares_rates())
    }

    pub(super) fn refuse(&self, wait: Duration) -> Rejection {
        self.config().emitter.emit(&Event::Refused { kind: RejectionKind::Paced });
        let wait = if wait.is_zero() { SOON } else { wait };
        let rejection = Rejection::new(RejectionKind::Paced).with_retry_after(wait);
        if !self.config().shows_limits() {
            return rejection;
        }
        let mut headers = HeaderMap::new();
        self.show_limits(&mut headers);
        rejection.with_headers(headers)
    }

    /// Reports the caller's remaining limits, if the limits are per caller.
    pub(super) fn show_limits(&self, headers: &mut HeaderMap) {
        if !self.config().shows_limits() {
            return;
        }
        let is_shared = self.config().peers.as_ref().is_some_and(|peers| peers.0.shares_rates());
        self.with_buckets(clock::now(), |buckets, now, in_flight| {
            let rates = buckets.iter().filter(|_| !is_shared).map(|bucket| {
                let (name, unit) = match bucket.unit {
                    Unit::Requests => ("requests", None),
                    Unit::Tokens => ("tokens", Some("tokens")),
                    Unit::InputTokens => ("input-tokens", Some("tokens")),
                    Unit::OutputTokens => ("output-tokens", Some("tokens")),
                };
                let reset = Duration::from_micros(bucket.reset(now));
                let (quota, remaining) = (bucket.size(), bucket.remaining(now));
                Policy { name, unit, quota, window: Some(bucket.fills_in()), remaining, reset }
            });
            let at_once = self.config().concurrency.map(|most| Policy {
                name: "concurrency",
                unit: Some("concurrent-requests"),
                quota: most.into(),
                window: None,
                remaining: most.saturating_sub(in_flight).into(),
                reset: Duration::ZERO,
            });
            let all = rates.chain(at_once);
            let policy = self.config().policy.get_or_init(|| rate_limit::policies(all.clone()));
            if let (Some(policy), Some(limits)) = (policy, rate_limit::limits(all)) {
                headers.insert(RATE_LIMIT, limits);
                headers.insert(RATE_LIMIT_POLICY, policy.clone());
            }
        });
    }

    pub(super) fn count_waiting(&self, change: f64) {
        gauge_add("tower_buttress_pace_waiting", self.config().name, change);
    }

    pub(super) fn count_in_flight(&self, change: f64) {
        if self.config().concurrency.is_some() {
            gauge_add("tower_buttress_pace_in_flight", self.config().name, change);
        }
    }
}

/// Reports a pause of a limit.
#[cold]
pub(super) fn paused(limit: &ThreadArc<Limit>, pause: PeerPause) {
    let config = limit.config();
    if let (Some(peers), Some(limit)) = (&config.peers, peer_limit(limit)) {
        peers.0.on_pause(limit, pause);
    }
    config.emitter.emit(&Event::Paused { wait: pause.wait });
    gauge("tower_buttress_pace_paused_until_seconds", config.name, || {
        let until = clock::wall().checked_add(pause.wait).and_then(|until| until.duration_since(UNIX_EPOCH).ok());
        until.map_or(0.0, |until| until.as_secs_f64())
    });
}

/// The limit for other processes, if it is shared.
pub(super) fn peer_limit(limit: &ThreadArc<Limit>) -> Option<PeerLimit> {
    let id = limit.id()?;
    let limit: Weak<Limit> = Arc::downgrade(limit.value());
    let limit: Weak<dyn Pausing> = limit;
    Some(PeerLimit::new(limit, id))
}
