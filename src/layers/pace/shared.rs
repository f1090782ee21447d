//! The keys of one layer.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Request;

use super::config::{Config, KeyFn, PaceRole};
use super::key::{Limit, Standing};
use super::report::peer_limit;
use super::tally::STRIPES;
use crate::admission::{CallerHasher, with_head};
use crate::call::{Model, Tenant};
use crate::policy::queue::Hashed;
use crate::proto::credentials;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::rt::clock;
use crate::rt::per_thread::{ReadMostly, ThreadArc, ThreadArcs};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    callers: CallerHasher,
    epoch: Instant,
    /// The first key, which is found without a lock and is not evicted: many layers have one upstream and one credential.
    first: OnceLock<(u64, ThreadArcs<Limit>)>,
    /// The others.
    keys: ReadMostly<KeyTable>,
    /// The limit of requests whose key has no room.
    others: ThreadArcs<Limit>,
    /// When a new key looks for one to remove again, in milliseconds since `epoch`.
    full_until: AtomicU64,
}

/// How often a new key looks at all others for one to remove. While none can be, each call with a new key would.
const LOOK: Duration = Duration::from_millis(10);

type KeyTable = HashMap<u64, ThreadArcs<Limit>, Hashed>;

/// The state of a [`PaceLayer`](crate::PaceLayer), over all its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PaceStats {
    /// The number of known keys.
    pub keys: usize,
    /// The number of waiting calls.
    pub waiting: usize,
    /// The number of calls in flight, if it is limited.
    pub in_flight: u32,
    /// The longest remaining pause of a key.
    pub paused: Option<Duration>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let (config, epoch) = (Arc::new(Config { policy: OnceLock::new(), ..config }), clock::now());
        let others = ThreadArcs::new(Arc::new(Limit::new(config.clone(), epoch, None)), STRIPES);
        Self {
            config,
            callers: CallerHasher::default(),
            epoch,
            first: OnceLock::new(),
            keys: ReadMostly::default(),
            others,
            full_until: AtomicU64::new(0),
        }
    }

    /// Returns the limit that this request counts for, and its caller.
    #[inline]
    pub(super) fn limit<B>(&self, request: &mut Request<B>) -> (ThreadArc<Limit>, u64) {
        if let Some(find) = &self.config.key {
            return self.named_limit(request, &*find.0);
        }
        // Most callers are identified by the same credentials as the limit.
        let credentials = self.callers.credentials(request);
        let caller = self.callers.with_credentials(request, || credentials);
        let hash = match self.config.role {
            PaceRole::Callers => caller,
            PaceRole::Upstream => self.upstream_key(request, credentials),
        };
        (self.find(hash, || self.default_id(request)), caller)
    }

    fn named_limit<B>(&self, request: &mut Request<B>, find: &KeyFn) -> (ThreadArc<Limit>, u64) {
        let limit = with_head(request, |head| {
            let name = find(head);
            self.find(self.callers.hash(name.as_deref()), || named_id(name.as_deref()))
        });
        (limit, self.callers.of(request))
    }

    fn upstream_key<B>(&self, request: &Request<B>, credentials: u64) -> u64 {
        let authority = request.uri().authority();
        if authority.is_none() && !self.config.by_model {
            return credentials;
        }
        let mut hasher = self.callers.hasher();
        authority.map(http::uri::Authority::as_str).hash(&mut hasher);
        credentials.hash(&mut hasher);
        if self.config.by_model {
            Model::of(request).hash(&mut hasher);
        }
        hasher.finish()
    }

    #[inline]
    fn find(&self, hash: u64, id: impl FnOnce() -> Fingerprint) -> ThreadArc<Limit> {
        if let Some((_, limit)) = self.first.get().filter(|(first, _)| *first == hash) {
            return limit.hold();
        }
        self.find_other(hash, id)
    }

    #[inline(never)]
    fn find_other(&self, hash: u64, id: impl FnOnce() -> Fingerprint) -> ThreadArc<Limit> {
        if let Some(limit) = self.keys.read().get(&hash) {
            return limit.hold();
        }
        // Other processes hash with other secrets.
        let id = self.config.peers.as_ref().map(|_| id());
        let (limit, is_new) = self.insert(hash, id);
        if let (true, Some(peers), Some(limit)) = (is_new, &self.config.peers, peer_limit(&limit)) {
            peers.0.on_new(limit);
        }
        limit
    }

    /// The identity of this request's limit in every process.
    fn default_id<B>(&self, request: &Request<B>) -> Fingerprint {
        let mut print;
        if self.config.role == PaceRole::Callers {
            // One limit for all requests of a caller, to any host.
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
    fn insert(&self, hash: u64, id: Option<Fingerprint>) -> (ThreadArc<Limit>, bool) {
        let mut is_new = false;
        let limit = || ThreadArcs::new(Arc::new(Limit::new(self.config.clone(), self.epoch, id)), STRIPES);
        let (first, found) = self.first.get_or_init(|| {
            is_new = true;
            (hash, limit())
        });
        if *first == hash {
            return (found.hold(), is_new);
        }
        let (most, now) = (self.config.max_keys.saturating_sub(1), clock::now());
        // No new call can reach one of them while all threads are kept from reading.
        let is_idle = |limit: &ThreadArcs<Limit>| !limit.is_held() && limit.is_idle(now);
        // Invented callers are unlimited in number, and lose nothing: each new name has a full limit anyway.
        let is_unproven =
            |limit: &ThreadArcs<Limit>| self.config.role == PaceRole::Callers && !limit.is_held() && !limit.is_proven();
        let is_full = |keys: &KeyTable| keys.len() >= most && !keys.contains_key(&hash);
        let keys = self.keys.read();
        let is_removable = |limit: &ThreadArcs<Limit>| is_idle(limit) || is_unproven(limit);
        if is_full(&keys) && !self.finds_room(now, || keys.values().any(is_removable)) {
            return (self.others.hold(), false);
        }
        drop(keys);
        // The decision for the first thread applies to all.
        let (mut forgotten, mut new) = (None, None);
        let found = self.keys.write(|keys| {
            if is_full(keys) {
                let all = |is: &dyn Fn(&ThreadArcs<Limit>) -> bool| -> Vec<u64> {
                    keys.iter().filter(|(_, limit)| is(limit)).map(|(hash, _)| *hash).collect()
                };
                let idle_or_unproven =
                    || Some(all(&is_idle)).filter(|idle| !idle.is_empty()).unwrap_or_else(|| all(&is_unproven));
                for hash in forgotten.get_or_insert_with(idle_or_unproven).iter() {
                    keys.remove(hash);
                }
            }
            if is_full(keys) {
                return None;
            }
            Some(keys.entry(hash).or_insert_with(|| new.get_or_insert_with(limit).clone()).hold())
        });
        (found.flatten().unwrap_or_else(|| self.others.hold()), new.is_some())
    }

    /// Looks at all keys at most once in [`LOOK`] if none can be removed.
    fn finds_room(&self, now: Instant, look: impl FnOnce() -> bool) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.saturating_duration_since(self.epoch));
        if now < self.full_until.load(Ordering::Relaxed) {
            return false;
        }
        let found = look();
        if !found {
            self.full_until.store(now.saturating_add(millis(LOOK)), Ordering::Relaxed);
        }
        found
    }

    pub(super) fn stats(&self) -> PaceStats {
        let now = clock::now();
        let keys = self.keys.read();
        let first = self.first.get().map(|(_, limit)| limit);
        let all = keys.values().chain(first).chain([&self.others]).map(|limit| limit.standing(now));
        let known = keys.len() + usize::from(first.is_some());
        let mut stats = PaceStats { keys: known, ..PaceStats::default() };
        for Standing { waiting, in_flight, paused } in all {
            stats.waiting = stats.waiting.saturating_add(waiting);
            stats.in_flight = stats.in_flight.saturating_add(in_flight);
            stats.paused = stats.paused.max(paused);
        }
        stats
    }
}

/// The identity of a limit with a custom key in every process.
fn named_id(name: Option<&str>) -> Fingerprint {
    let mut print = Fingerprinter::new("pace by name");
    print.list(name.iter().map(|name| name.as_bytes()));
    print.finish(0)
}
