//! Configures the load limits of upstreams and of callers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tower_buttress::{PaceLayer, QueueLayer};

use super::args::{CallerArgs, ConcurrencyArg, LayerArgs, Pacing};

/// The load of upstreams and callers, for the page and for the limit of calls without callers.
#[derive(Clone, Default)]
pub(crate) struct Loads(Arc<Mutex<Vec<UpstreamLoad>>>);

struct UpstreamLoad {
    name: String,
    /// `None`: there is no limit.
    queue: Option<QueueLayer>,
    pace: PaceLayer,
}

/// The range of `auto`.
const FEWEST: u32 = 2;
const MOST: u32 = 1_000;
/// More than a key file has names.
const MOST_TENANTS: u32 = 1 << 20;

// === impl Loads ===

impl Loads {
    pub(crate) fn add(&self, name: &str, queue: Option<&QueueLayer>, pace: &PaceLayer) {
        let load = UpstreamLoad { name: name.to_owned(), queue: queue.cloned(), pace: pace.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(load);
    }

    /// A quarter of the limit of the upstream with the lowest one, at least one. Counts only upstreams that have
    /// calls, or all if none has. `None`: no upstream has a limit.
    pub(crate) fn quarter(&self) -> Option<u32> {
        let loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places: Vec<_> = loads.iter().filter_map(|load| load.queue.as_ref().map(QueueLayer::stats)).collect();
        drop(loads);
        // An idle upstream makes no call wait, and `auto` has learned nothing about it.
        let is_busy = places.iter().any(|places| places.in_flight > 0);
        let asked = places.iter().filter(|places| places.in_flight > 0 || !is_busy);
        asked.map(|places| (places.limit / 4).max(1)).min()
    }

    pub(crate) fn to_json(&self) -> Value {
        let load = |UpstreamLoad { name, queue, pace }: &UpstreamLoad| {
            let (places, pace) = (queue.as_ref().map(QueueLayer::stats), pace.stats());
            let paused = pace.paused.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            json!({
                "name": name,
                "in_flight": places.map(|places| places.in_flight),
                "limit": places.map(|places| places.limit),
                "waiting": places.map(|places| places.waiting),
                "pace_waiting": pace.waiting,
                "paused_ms": paused,
            })
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(load).collect()
    }
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loads").finish_non_exhaustive()
    }
}

/// The queue of one upstream.
pub(crate) fn queue(args: &LayerArgs) -> QueueLayer {
    let layer = match args.concurrency {
        ConcurrencyArg::Off => return QueueLayer::disabled(),
        ConcurrencyArg::Auto => QueueLayer::auto(FEWEST, MOST),
        ConcurrencyArg::Fixed(limit) => QueueLayer::new(limit.get()),
    };
    layer.max_waiting(args.queue).max_wait(args.queue_wait)
}

/// The rates of one upstream.
pub(crate) fn pace(args: &LayerArgs) -> PaceLayer {
    let rates = [args.pace_requests.0, args.pace_tokens.0];
    let layer = PaceLayer::new().learn(args.pace == Pacing::Learn);
    let layer = match (args.pace, rates) {
        (Pacing::Off, [None, None]) => return PaceLayer::disabled(),
        (Pacing::Off, _) => layer.max_pause(std::time::Duration::ZERO),
        // Providers limit each model separately. The operator's own rates apply to the account: callers choose the
        // models, and could multiply a rate per model.
        (_, [None, None]) => layer.key_by_model(),
        _ => layer,
    };
    let layer = rates[0].into_iter().fold(layer, PaceLayer::requests);
    rates[1].into_iter().fold(layer, PaceLayer::tokens)
}

/// The limits of each caller.
pub(crate) fn per_caller(args: &CallerArgs) -> PaceLayer {
    let CallerArgs { caller_requests, caller_tokens, caller_concurrency, .. } = args;
    if caller_requests.0.is_none() && caller_tokens.0.is_none() && caller_concurrency.0.is_none() {
        return PaceLayer::disabled();
    }
    // Anyone can invent callers where there are no keys: beyond a number they share one limit. With keys there are as
    // many callers as keys.
    let layer = PaceLayer::per_caller();
    let layer = if args.keys().is_some() { layer.max_keys(MOST_TENANTS) } else { layer };
    let layer = caller_requests.0.into_iter().fold(layer, PaceLayer::requests);
    let layer = caller_tokens.0.into_iter().fold(layer, PaceLayer::tokens);
    caller_concurrency.0.into_iter().fold(layer, |layer, calls| layer.concurrency(calls.get()))
}
