//! What the calls through one layer share: its keys.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{HeaderMap, Request};

use super::config::{Config, Role};
use super::key::{Limit, Standing};
use super::peers::PeerLimit;
use crate::admission::{Callers, gauge, gauge_add};
use crate::call::{Model, Tenant};
use crate::event::Event;
use crate::policy::pace::Grant;
use crate::policy::queue::Hashed;
use crate::proto::credentials;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::rate_limit::{self, Policy, Unit};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ReadMostly;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) callers: Callers,
    epoch: Instant,
    keys: ReadMostly<Keys>,
    /// Of the requests for whose key there is no room.
    others: Arc<Limit>,
}

type Keys = HashMap<u64, Arc<Limit>, Hashed>;

/// The limit that a call counts for.
#[derive(Debug)]
pub(super) enum Key {
    /// The limit was open. The call keeps its hash alone: a reference would be a count that all threads write to.
    Open(u64),
    Held(Arc<Limit>),
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
        let others = Arc::new(config.new_key(epoch, None));
        Self { config, callers: Callers::default(), epoch, keys: ReadMostly::default(), others }
    }

    /// The limit that this request counts for, and its caller.
    pub(super) fn key<B>(&self, request: Request<B>) -> (Request<B>, Key, u64) {
        let Some(find) = &self.config.key else {
            // Most callers are named by the same credentials as the limit.
            let credentials = self.callers.credentials(&request);
            let caller = self.callers.with_credentials(&request, || credentials);
            let hash = match self.config.role {
                Role::Callers => caller,
                Role::Upstream => self.upstream_key(&request, credentials),
            };
            let key = self.find(hash, || self.default_id(&request));
            return (request, key, caller);
        };
        let (parts, body) = request.into_parts();
        let name = (find.0)(&parts);
        let key = self.find(self.callers.hash(name.as_deref()), || named_id(name.as_deref()));
        drop(name);
        let request = Request::from_parts(parts, body);
        let caller = self.callers.of(&request);
        (request, key, caller)
    }

    fn upstream_key<B>(&self, request: &Request<B>, credentials: u64) -> u64 {
        let mut hasher = self.callers.hasher();
        request.uri().authority().map(http::uri::Authority::as_str).hash(&mut hasher);
        credentials.hash(&mut hasher);
        if self.config.by_model {
            Model::of(request).hash(&mut hasher);
        }
        hasher.finish()
    }

    #[inline]
    fn find(&self, hash: u64, id: impl FnOnce() -> Fingerprint) -> Key {
        if let Some(limit) = self.keys.read().get(&hash) {
            if limit.is_open() && !self.config.counts_tokens() {
                limit.tally().enter();
                return Key::Open(hash);
            }
            return Key::Held(limit.clone());
        }
        // Other processes hash with other secrets.
        let id = self.config.peers.as_ref().map(|_| id());
        let (limit, is_new) = self.insert(hash, id);
        if let (true, Some(peers), Some(id)) = (is_new, &self.config.peers, id) {
            peers.0.on_new(PeerLimit::new(&limit, id));
        }
        Key::Held(limit)
    }

    /// The limit of a call that is under way. It is not forgotten before the call [leaves](Self::leave).
    pub(super) fn limit(&self, key: &Key) -> Arc<Limit> {
        match key {
            Key::Held(limit) => limit.clone(),
            Key::Open(hash) => self.keys.read().get(hash).unwrap_or(&self.others).clone(),
        }
    }

    /// A call was answered, and was no refusal.
    #[inline]
    pub(super) fn served(&self, key: &Key, grant: &Grant) {
        let concerns = |limit: &Arc<Limit>| {
            let is_sample = limit.tally().count();
            (is_sample || !limit.is_open()).then(|| (limit.clone(), is_sample))
        };
        let concerned = match key {
            Key::Held(limit) => concerns(limit),
            Key::Open(hash) => self.keys.read().get(hash).and_then(concerns),
        };
        if let Some((limit, is_sample)) = concerned {
            limit.served(grant, is_sample, clock::now());
        }
    }

    /// A call is over.
    #[inline]
    pub(super) fn leave(&self, key: &Key) {
        if let Key::Open(hash) = key {
            if let Some(limit) = self.keys.read().get(hash) {
                limit.tally().leave();
            }
        }
    }

    /// What names the limit of this request in every process.
    fn default_id<B>(&self, request: &Request<B>) -> Fingerprint {
        let mut print;
        if self.config.role == Role::Callers {
            // One limit for all that a caller asks for, of whichever host.
            print = Fingerprinter::new("pace per caller");
            if let Some(tenant) = Tenant::of(request) {
                print.field(tenant.as_bytes());
                return print.finish(1);
            }
        } else {
            print = Fingerprinter::new("pace");
            print.field(request.uri().authority().map_or("", http::uri::Authority::as_str).as_bytes());
        }
        for name in &credentials::HEADERS {
            let values: Vec<_> = request.headers().get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
            print.list(values.into_iter());
        }
        if self.config.by_model {
            print.field(Model::of(request).unwrap_or_default().as_bytes());
        }
        print.finish(0)
    }

    #[cold]
    fn insert(&self, hash: u64, id: Option<Fingerprint>) -> (Arc<Limit>, bool) {
        let (most, copies, now) = (self.config.max_keys, self.keys.copies(), clock::now());
        // No call can come to one of them while all threads are kept from reading.
        let is_idle = |limit: &Arc<Limit>| Arc::strong_count(limit) <= copies && limit.is_idle(now);
        let is_full = |keys: &Keys| keys.len() >= most && !keys.contains_key(&hash);
        let keys = self.keys.read();
        if is_full(&keys) && !keys.values().any(is_idle) {
            return (self.others.clone(), false);
        }
        drop(keys);
        // What is decided for the first thread holds for all.
        let (mut idle, mut new) = (None, None);
        let found = self.keys.write(|keys| {
            if is_full(keys) {
                let all = || keys.iter().filter(|(_, limit)| is_idle(limit)).map(|(hash, _)| *hash).collect::<Vec<_>>();
                for hash in idle.get_or_insert_with(all) {
                    keys.remove(hash);
                }
            }
            if is_full(keys) {
                return None;
            }
            let limit = || Arc::new(self.config.new_key(self.epoch, id));
            Some(keys.entry(hash).or_insert_with(|| new.get_or_insert_with(limit).clone()).clone())
        });
        (found.flatten().unwrap_or_else(|| self.others.clone()), new.is_some())
    }

    /// Whether calls of this key take their turns among those of other processes.
    pub(super) fn shares_rates(&self, key: &Limit) -> bool {
        let peers = self.config.peers.as_ref();
        !self.config.rates.is_empty() && key.id().is_some() && peers.is_some_and(|peers| peers.0.shares_rates())
    }

    pub(super) fn refuse(&self, key: &Limit, wait: Duration) -> Rejection {
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
    pub(super) fn show_limits(&self, key: &Limit, headers: &mut HeaderMap) {
        if !self.config.shows_limits() {
            return;
        }
        let is_shared = self.config.peers.as_ref().is_some_and(|peers| peers.0.shares_rates());
        key.with_buckets(clock::now(), |buckets, now, in_flight| {
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
    pub(super) fn paused(&self, key: &Arc<Limit>, pause: Duration) {
        if let (Some(peers), Some(id)) = (&self.config.peers, key.id()) {
            peers.0.on_pause(PeerLimit::new(key, id), pause);
        }
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
        let keys = self.keys.read();
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

/// What names a limit in every process that requests are said to count for.
fn named_id(name: Option<&str>) -> Fingerprint {
    let mut print = Fingerprinter::new("pace by name");
    print.list(name.iter().map(|name| name.as_bytes()));
    print.finish(0)
}
