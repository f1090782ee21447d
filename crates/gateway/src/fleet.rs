//! What this gateway shares with others, through Redis.

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

/// The other gateways, as this one knows them; none without Redis.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    redis: Option<Redis>,
    /// The pauses and rates of all, by credential and host, and the rates of callers.
    pace: Option<Arc<FleetPace>>,
    outage: OnOutage,
}

// === impl Fleet ===

impl Fleet {
    /// Connects nothing yet: a Redis that is down stops no gateway. What is wrong is one line.
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

    /// Connects, so that the first call need not, and the log says early where Redis is not there.
    pub(crate) fn greet(&self) {
        if let Some(redis) = self.redis.clone() {
            tokio::spawn(async move { redis.ping().await });
        }
    }

    /// Where the calls and answers of all are known; `memory` has those of this gateway.
    pub(crate) fn store(&self, memory: MemoryStore, observer: &Arc<dyn Observer>) -> DedupStore {
        match self.redis.clone() {
            None => DedupStore::Own(memory),
            Some(redis) => DedupStore::Fleet(RedisStore::new(redis).memory(memory).observer(observer.clone())),
        }
    }

    /// With that store.
    pub(crate) fn dedup(&self, layer: DedupLayer, store: DedupStore) -> DedupLayer<DedupStore> {
        match store {
            DedupStore::Own(_) => layer.store(store),
            // A key that others may have used is refused, where that is wanted, instead of forgotten.
            DedupStore::Fleet(_) => layer.strict_keys(self.outage == OnOutage::Refuse).store(store),
        }
    }

    /// With the circuits of all to the upstream of this name.
    pub(crate) fn breaker(&self, upstream: &str, layer: CircuitBreakerLayer) -> CircuitBreakerLayer {
        match self.redis.clone() {
            Some(redis) => layer.share(FleetBreaker::new(redis, upstream)),
            None => layer,
        }
    }

    /// With the pauses and the rates of all.
    pub(crate) fn pace(&self, layer: PaceLayer) -> PaceLayer {
        match self.pace.clone() {
            Some(pace) => layer.share(pace),
            None => layer,
        }
    }

    /// With the conversations of all, on the route of this name.
    pub(crate) fn supersede(&self, route: &str, layer: SupersedeLayer) -> SupersedeLayer {
        match self.redis.clone() {
            Some(redis) => layer.share(Arc::new(FleetSupersede::new(redis).named(route))),
            None => layer,
        }
    }

    /// With the last good answers of all. Those on their way to Redis count in `memory`.
    pub(crate) fn last_good(&self, layer: LastGoodLayer, memory: &Memory) -> LastGoodLayer {
        match self.redis.clone() {
            Some(redis) => layer.share(Arc::new(FleetLastGood::new(redis).memory(memory.clone()))),
            None => layer,
        }
    }

    /// Forgets what Redis has, and has the other gateways forget what they have. Returns how many keys there were; `Err`:
    /// Redis cannot be reached. `None`: there is no Redis.
    pub(crate) async fn forget(&self, tenant: Option<&Tenant>) -> Option<Result<u64, BackendError>> {
        Some(self.redis.as_ref()?.forget(tenant).await)
    }

    /// Has this gateway forget what another was told to.
    pub(crate) fn on_forget(&self, forgetful: &ForgetfulLayers) -> Option<ForgetListener> {
        let forgetful = forgetful.clone();
        let forget = move |tenant: Option<&Tenant>| {
            forgetful.forget(tenant);
        };
        Some(self.redis.as_ref()?.on_forget(forget))
    }

    /// Whether calls are refused since Redis cannot be reached.
    pub(crate) fn is_missed(&self) -> bool {
        self.outage == OnOutage::Refuse && self.is_reached() == Some(false)
    }

    pub(crate) fn measure(&self) {
        if let Some(is_reached) = self.is_reached() {
            metrics::gauge!("gateway_redis_reached").set(f64::from(u8::from(is_reached)));
        }
    }

    fn is_reached(&self) -> Option<bool> {
        self.redis.as_ref().map(|redis| redis.health().borrow().is_reached())
    }
}

fn count(operation: &Operation) {
    let Operation { name, result, took, .. } = *operation;
    metrics::counter!("gateway_redis_operations_total", "operation" => name, "result" => result.as_str()).increment(1);
    // What was not sent says nothing about how fast Redis is.
    if result != OperationResult::Skipped {
        metrics::histogram!("gateway_redis_operation_seconds", "operation" => name).record(took.as_secs_f64());
    }
}
