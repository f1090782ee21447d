//! What the calls through one layer share: its keys.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{HeaderMap, Request};

use super::config::{Config, Role};
use super::key::{Key, Standing};
use crate::admission::{Callers, gauge, gauge_add};
use crate::call::Model;
use crate::event::Event;
use crate::policy::queue::Hashed;
use crate::proto::rate_limit::{self, Policy, Unit};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) callers: Callers,
    epoch: Instant,
    keys: RwLock<HashMap<u64, Arc<Key>, Hashed>>,
    /// Of the requests for whose key there is no room.
    others: Arc<Key>,
}

/// How a [`PaceLayer`](crate::PaceLayer) is doing, over all its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PaceStats {
    /// How many keys are known.
    pub keys: usize,
    /// How many calls wait.
    pub waiting: usize,
    /// How many calls are under way, where their number is limited.
    pub in_flight: u32,
    /// How long the key that is paused for longest is paused from now.
    pub paused: Option<Duration>,
}

/// A caller who is refused for the number of its calls may come again in this.
const SOON: Duration = Duration::from_secs(1);

// === impl Shared ===

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let epoch = clock::now();
        let others = Arc::new(Key::new(&config, epoch));
        Self { config, callers: Callers::default(), epoch, keys: RwLock::default(), others }
    }

    /// The limit that this request counts for.
    pub(super) fn key<B>(&self, request: Request<B>) -> (Request<B>, Arc<Key>) {
        let (request, hash) = match &self.config.key {
            None => {
                let hash = self.default_key(&request);
                (request, hash)
            }
            Some(key) => {
                let (parts, body) = request.into_parts();
                let hash = self.callers.hash((key.0)(&parts).as_deref());
                (Request::from_parts(parts, body), hash)
            }
        };
        let key = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let key = key.unwrap_or_else(|| self.insert(hash));
        (request, key)
    }

    fn default_key<B>(&self, request: &Request<B>) -> u64 {
        match self.config.role {
            Role::Callers => self.callers.of(request),
            Role::Upstream => {
                let mut hasher = self.callers.hasher();
                request.uri().authority().map(http::uri::Authority::as_str).hash(&mut hasher);
                self.callers.credentials(request).hash(&mut hasher);
                if self.config.by_model {
                    Model::of(request).hash(&mut hasher);
                }
                hasher.finish()
            }
        }
    }

    #[cold]
    fn insert(&self, hash: u64) -> Arc<Key> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= self.config.max_keys && !keys.contains_key(&hash) {
            let now = clock::now();
            // No call can reach one of them: that takes the lock.
            keys.retain(|_, key| Arc::strong_count(key) > 1 || !key.is_idle(now));
            if keys.len() >= self.config.max_keys {
                return self.others.clone();
            }
        }
        keys.entry(hash).or_insert_with(|| Arc::new(Key::new(&self.config, self.epoch))).clone()
    }

    pub(super) fn refuse(&self, key: &Key, wait: Duration) -> Rejection {
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::Paced });
        let wait = if wait.is_zero() { SOON } else { wait };
        let rejection = Rejection::new(RejectionKind::Paced).with_retry_after(wait);
        if !self.config.shows_limits() {
            return rejection;
        }
        let mut headers = HeaderMap::new();
        self.show_limits(key, &mut headers);
        rejection.with_headers(headers)
    }

    /// Says what the caller has left, where the limits are ours.
    pub(super) fn show_limits(&self, key: &Key, headers: &mut HeaderMap) {
        if !self.config.shows_limits() {
            return;
        }
        key.with_buckets(clock::now(), |buckets, now, in_flight| {
            let rates = buckets.iter().map(|bucket| {
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
            let at_once = self.config.concurrency.map(|most| Policy {
                name: "concurrency",
                unit: Some("concurrent-requests"),
                quota: most.into(),
                window: None,
                remaining: most.saturating_sub(in_flight).into(),
                reset: Duration::ZERO,
            });
            rate_limit::write(rates.chain(at_once), headers);
        });
    }

    /// A key is paused for this long.
    pub(super) fn paused(&self, pause: Duration) {
        self.config.emitter.emit(&Event::Paused { wait: pause });
        gauge("tower_buttress_pace_paused_until_seconds", self.config.name, || {
            let until = clock::wall().checked_add(pause).and_then(|until| until.duration_since(UNIX_EPOCH).ok());
            until.map_or(0.0, |until| until.as_secs_f64())
        });
    }

    pub(super) fn count_waiting(&self, change: f64) {
        gauge_add("tower_buttress_pace_waiting", self.config.name, change);
    }

    pub(super) fn count_in_flight(&self, change: f64) {
        if self.config.concurrency.is_some() {
            gauge_add("tower_buttress_pace_in_flight", self.config.name, change);
        }
    }

    pub(super) fn stats(&self) -> PaceStats {
        let now = clock::now();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let all = keys.values().chain([&self.others]).map(|key| key.standing(now));
        let mut stats = PaceStats { keys: keys.len(), ..PaceStats::default() };
        for Standing { waiting, in_flight, paused } in all {
            stats.waiting = stats.waiting.saturating_add(waiting);
            stats.in_flight = stats.in_flight.saturating_add(in_flight);
            stats.paused = stats.paused.max(paused);
        }
        stats
    }
}
