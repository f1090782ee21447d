//! Shares state with other gateways through Redis.

mod store;

use std::sync::Arc;

use tower_buttress::store::MemoryStore;
use tower_buttress::{
    CircuitBreakerLayer, DedupLayer, LastGoodLayer, Memory, Observer, PaceLayer, SupersedeLayer, Tenant,
};
use tower_buttress_redis::backend::BackendError;
use tower_buttress_redis::{
    FleetBreaker, FleetLastGood, FleetPace, FleetSupersede, ForgetListener, Operation, OperationResult, Outage, Redis,
    RedisStore,
};

pub(crate) use self::store::DedupStore;
use super::args::{FleetArgs, OnOutage};
use super::forgetful_layers::ForgetfulLayers;

/// The state shared with other gateways; empty without Redis.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    redis: Option<Redis>,
    /// The shared pauses and rates, by credential and host, and the shared rates of callers.
    pace: Option<Arc<FleetPace>>,
    outage: OnOutage,
}

// === impl Fleet ===

impl Fleet {
    /// Does not connect yet, so that the gateway starts while Redis is down. The error is one line.
    pub(crate) fn new(args: &FleetArgs, observer: &Arc<dyn Observer>) -> Result<Self, String> {
        let outage = args.redis_outage;
        let Some(options) = args.options().map_err(|misfit| misfit.to_string())? else {
            return Ok(Self { redis: None, pace: None, outage });
        };
        let options = options.observer(observer.clone()).on_operation(count).outage(match outage {
            OnOutage::Local => Outage::Local,
            OnOutage::Refuse => Outage::Refuse,
        });
        let redis = Redis::new(options).map_err(|error| format!("--redis: {}", error.category()))?;
        let pace = Some(Arc::new(FleetPace::new(redis.clone()).processes(args.redis_processes)));
        Ok(Self { redis: Some(redis), pace, outage })
    }

    /// Connects ahead of the first call, so that the log shows early if Redis is unreachable.
    pub(crate) fn greet(&self) {
        if let Some(redis) = self.redis.clone() {
            tokio::spawn(async move { redis.ping().await });
        }
    }

    /// The store of calls and answers of all gateways; `memory` holds those of this one.
    pub(crate) fn store(&self, memory: MemoryStore, observer: &Arc<dyn Observer>) -> DedupStore {
        match self.redis.clone() {
            None => DedupStore::Own(memory),
            Some(redis) => DedupStore::Fleet(RedisStore::new(redis).memory(memory).observer(observer.clone())),
        }
    }

    /// Adds the shared store to the layer.
    pub(crate) fn dedup(&self, layer: DedupLayer, store: DedupStore) -> DedupLayer<DedupStore> {
        match store {
            DedupStore::Own(_) => layer.store(store),
            // With `refuse`, a key that another gateway may have used is refused during an outage.
            DedupStore::Fleet(_) => layer.strict_keys(self.outage == OnOutage::Refuse).store(store),
        }
    }

    /// Adds the shared circuits of the upstream with this name.
    pub(crate) fn breaker(&self, upstream: &str, layer: CircuitBreakerLayer) -> CircuitBreakerLayer {
        match self.redis.clone() {
            Some(redis) => layer.share(FleetBreaker::new(redis, upstream)),
            None => layer,
        }
    }

    /// Adds the shared pauses and rates.
    pub(crate) fn pace(&self, layer: PaceLayer) -> PaceLayer {
        match self.pace.clone() {
            Some(pace) => layer.share(pace),
            None => layer,
        }
    }

    /// Adds the shared conversations of the route with this name.
    pub(crate) fn supersede(&self, route: &str, layer: SupersedeLayer) -> SupersedeLayer {
        match self.redis.clone() {
            Some(redis) => layer.share(Arc::new(FleetSupersede::new(redis).named(route))),
            None => layer,
        }
    }

    /// Adds the shared last good answers. Answers on their way to Redis count in `memory`.
    pub(crate) fn last_good(&self, layer: LastGoodLayer, memory: &Memory) -> LastGoodLayer {
        match self.redis.clone() {
            Some(redis) => layer.share(Arc::new(FleetLastGood::new(redis).memory(memory.clone()))),
            None => layer,
        }
    }

    /// Deletes what Redis has, and tells the other gateways to forget theirs. Returns the number of keys deleted;
    /// `Err`: Redis is unreachable; `None`: there is no Redis.
    pub(crate) async fn forget(&self, tenant: Option<&Tenant>) -> Option<Result<u64, BackendError>> {
        Some(self.redis.as_ref()?.forget(tenant).await)
    }

    /// Makes this gateway forget what another one has to.
    pub(crate) fn on_forget(&self, forgetful: &ForgetfulLayers) -> Option<ForgetListener> {
        let forgetful = forgetful.clone();
        let forget = move |tenant: Option<&Tenant>| {
            forgetful.forget(tenant);
        };
        Some(self.redis.as_ref()?.on_forget(forget))
    }

    /// Whether calls are refused because Redis is unreachable.
    pub(crate) fn is_missed(&self) -> bool {
        self.outage == OnOutage::Refuse && self.is_reached() == Some(false)
    }

    pub(crate) fn measure(&self) {
        if let Some(is_reached) = self.is_reached() {
            metrics::gauge!("gateway_redis_reached").set(f64::from(u8::from(is_reached)));
        }
    }

    fn is_reached(&self) -> Option<bool> {
        self.redis.as_ref().map(|redis| redis.reachability().borrow().is_reached())
    }
}

fn count(operation: &Operation) {
    let Operation { name, result, took, .. } = *operation;
    metrics::counter!("gateway_redis_operations_total", "operation" => name, "result" => result.as_str()).increment(1);
    // An operation that was not sent says nothing about the speed of Redis.
    if result != OperationResult::Skipped {
        metrics::histogram!("gateway_redis_operation_seconds", "operation" => name).record(took.as_secs_f64());
    }
}
