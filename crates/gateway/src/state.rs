//! State that survives a reload of the configuration: circuits, pauses, places, kept answers and conversations. It
//! belongs to the name of its route.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tower_buttress::store::MemoryStore;
use tower_buttress::{
    CircuitBreakerConfig, CircuitBreakerLayer, DedupLayer, LastGoodLayer, Memory, Observer, PaceLayer, QueueLayer,
    RetryBudget, StreamGuardLayer, SupersedeLayer,
};

use super::account;
use super::answers;
use super::args::{CallerArgs, ConcurrencyArg, CountArg, LayerArgs, Pacing, RateLimit, Switch};
use super::fleet::{DedupStore, Fleet};
use super::load::{self, Loads};
use super::upstream::Upstream;

/// Limit of bytes for the last good answers of all routes.
const LAST_GOOD: usize = 64 * 1024 * 1024;

/// The state of all routes.
pub(crate) struct States {
    fleet: Fleet,
    observer: Arc<dyn Observer>,
    callers: Held<(RateLimit, RateLimit, CountArg, bool), PaceLayer>,
    /// Counts the memory held for calls in flight, of all routes.
    memory: Memory,
    kept: MemoryStore,
    store: DedupStore,
    dedup: Held<Switch, DedupLayer>,
    routes: HashMap<String, RouteState>,
}

/// The state of one route.
pub(crate) struct RouteState {
    fleet: Fleet,
    observer: Arc<dyn Observer>,
    memory: Memory,
    /// The prefix of its upstreams' names.
    prefix: String,
    pub(crate) guard: StreamGuardLayer,
    pub(crate) budget: RetryBudget,
    pub(crate) last_good: LastGoodLayer,
    conversations: Held<(Option<HeaderName>, Option<HeaderName>), SupersedeLayer>,
    upstreams: HashMap<String, UpstreamState>,
    /// The upstreams of the previous configuration.
    old: HashMap<String, UpstreamState>,
}

/// The state of one upstream of a route.
struct UpstreamState {
    url: Upstream,
    breaker: Option<CircuitBreakerLayer>,
    queue: Held<(ConcurrencyArg, u32, Duration), QueueLayer>,
    pace: Held<(Pacing, RateLimit, RateLimit), PaceLayer>,
}

/// The stateful layers of one upstream.
#[derive(Clone, Debug)]
pub(crate) struct Guards {
    /// The name in metrics and pages, with the route in front.
    pub(crate) name: String,
    pub(crate) breaker: Option<CircuitBreakerLayer>,
    pub(crate) queue: QueueLayer,
    pub(crate) pace: PaceLayer,
}

/// A layer that starts anew when its settings change.
struct Held<K, L>(Option<(K, L)>);

// === impl States ===

impl States {
    pub(crate) fn new(fleet: &Fleet, memory: Memory, observer: &Arc<dyn Observer>) -> Self {
        let kept = MemoryStore::default();
        Self {
            store: fleet.store(kept.clone(), observer),
            fleet: fleet.clone(),
            observer: observer.clone(),
            callers: Held::default(),
            memory,
            kept,
            dedup: Held::default(),
            routes: HashMap::new(),
        }
    }

    /// The limits of each caller.
    pub(crate) fn callers(&mut self, args: &CallerArgs) -> PaceLayer {
        let limits = (args.caller_requests, args.caller_tokens, args.caller_concurrency, args.keys().is_some());
        self.callers.with(limits, || self.fleet.pace(load::per_caller(args).observer(self.observer.clone())))
    }

    /// The memory limit shared by all layers of all routes.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The layer with the answers kept in this process.
    pub(crate) fn dedup(&mut self, args: &LayerArgs, loads: &Loads) -> DedupLayer {
        let with = |layer: DedupLayer| match answers::resumable(args, loads) {
            Some(resumable) => layer.resumable(resumable),
            None => layer,
        };
        // Existing answers stay available under new settings.
        let layer = with(self.dedup.with(args.resumable, || with(DedupLayer::new().memory(self.memory.clone()))));
        layer.store(self.kept.clone())
    }

    /// The same layer with the store that is shared with other gateways.
    pub(crate) fn shared(&self, dedup: DedupLayer) -> DedupLayer<DedupStore> {
        self.fleet.dedup(dedup, self.store.clone()).observer(self.observer.clone())
    }

    /// Takes the state of a route out; there are `routes` of them. [`put`](Self::put) it back when its stack is built.
    pub(crate) fn take(&mut self, route: &str, routes: usize) -> RouteState {
        // Last good answers count in the memory for calls in flight, and must leave most of it free.
        let last_good = LAST_GOOD.min(self.memory.limit() / 8) / routes.max(1);
        let mut state = self.routes.remove(route).unwrap_or_else(|| RouteState {
            fleet: self.fleet.clone(),
            observer: self.observer.clone(),
            prefix: if route.is_empty() { String::new() } else { format!("{route}/") },
            guard: StreamGuardLayer::new().memory(self.memory.clone()),
            budget: RetryBudget::default(),
            last_good: self
                .fleet
                .last_good(LastGoodLayer::new().memory(self.memory.clone()).capacity(last_good), &self.memory),
            memory: self.memory.clone(),
            conversations: Held::default(),
            upstreams: HashMap::new(),
            old: HashMap::new(),
        });
        state.old = std::mem::take(&mut state.upstreams);
        state
    }

    /// Keeps the state of these routes and drops all others.
    pub(crate) fn put(&mut self, routes: Vec<(String, RouteState)>) {
        self.routes = routes.into_iter().collect();
        self.routes.values_mut().for_each(|route| route.old.clear());
    }
}

// === impl RouteState ===

impl RouteState {
    /// The layers of the upstream with this name. Another URL is another upstream.
    pub(crate) fn upstream(
        &mut self,
        name: &str,
        url: &Upstream,
        args: &LayerArgs,
        breaker: Option<CircuitBreakerConfig>,
    ) -> Guards {
        let (fleet, observer, prefixed) = (&self.fleet, &self.observer, format!("{}{name}", self.prefix));
        let mut state = self.old.remove(name).filter(|state| state.url == *url).unwrap_or_else(|| UpstreamState {
            url: url.clone(),
            breaker: None,
            queue: Held::default(),
            pace: Held::default(),
        });
        let breaker = breaker.map(|config| {
            let make =
                || fleet.breaker(&prefixed, CircuitBreakerLayer::new().key_by_model().observer(observer.clone()));
            // An open circuit stays open, even if the new settings would not have opened it.
            state.breaker.get_or_insert_with(make).clone().configure(|_| config)
        });
        let queue = state
            .queue
            .with((args.concurrency, args.queue, args.queue_wait), || load::queue(args).observer(observer.clone()));
        let pace = state.pace.with((args.pace, args.pace_requests, args.pace_tokens), || {
            fleet.pace(load::pace(args).observer(observer.clone()))
        });
        self.upstreams.insert(name.to_owned(), state);
        Guards { name: prefixed, breaker, queue, pace }
    }

    /// The layer with the conversations that a header names.
    pub(crate) fn conversations(&mut self, args: &LayerArgs) -> SupersedeLayer {
        let (header, callers) = (args.supersede_header.0.clone(), args.dedup_tenant_header.clone());
        self.conversations.with((header.clone(), callers.clone()), || {
            let layer = match (header, callers) {
                (Some(header), None) => SupersedeLayer::by_header(header),
                (Some(header), Some(callers)) => {
                    SupersedeLayer::new(move |head| account::conversation(head, &header, &callers).map(Cow::Owned))
                }
                (None, _) => return SupersedeLayer::disabled(),
            };
            self.fleet.supersede(&self.prefix, layer.memory(self.memory.clone()))
        })
    }
}

// === impl Held ===

impl<K: PartialEq, L: Clone> Held<K, L> {
    fn with(&mut self, settings: K, make: impl FnOnce() -> L) -> L {
        let held = self.0.take().filter(|(held, _)| *held == settings).map(|(_, layer)| layer);
        let layer = held.unwrap_or_else(make);
        self.0 = Some((settings, layer.clone()));
        layer
    }
}

impl<K, L> Default for Held<K, L> {
    fn default() -> Self {
        Self(None)
    }
}
