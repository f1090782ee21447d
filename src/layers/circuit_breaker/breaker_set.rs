//! The circuits that clones of a layer share, with the services they make.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::watch;

use super::circuit::Circuit;
use super::config::CircuitBreakerConfig;
use super::health::Prober;
use super::notify::{SharedEmitter, StateNotifier};
use super::permit::Permit;
use super::registry::Registry;
use crate::event::Emitter;
use crate::policy::breaker::Breaker;
use crate::policy::known_models::{KnownModels, ModelKey};
use crate::rt::clock;
use crate::rt::sync::{Mutex, lock};

#[derive(Debug)]
pub(super) struct BreakerSet {
    config: Mutex<CircuitBreakerConfig>,
    /// Of the calls without a key.
    unkeyed: Arc<Circuit>,
    keyed: Registry,
    models: RwLock<KnownModels>,
    emitter: Arc<SharedEmitter>,
    prober: Arc<OnceLock<Prober>>,
    /// Gone with the last clone of the layer and of its services: what works for them ends.
    alive: watch::Sender<()>,
}

// === impl BreakerSet ===

impl BreakerSet {
    pub(super) fn new(config: CircuitBreakerConfig) -> Self {
        let (emitter, prober) = (Arc::default(), Arc::default());
        Self {
            unkeyed: circuit(&config, None, &emitter, &prober),
            keyed: Registry::new(config.max_keys),
            config: Mutex::new(config),
            models: RwLock::default(),
            emitter,
            prober,
            alive: watch::Sender::new(()),
        }
    }

    /// Leave to make a call under this key, or when to come back.
    pub(super) fn admit(&self, key: Option<&str>) -> Result<Permit, Option<Duration>> {
        match key {
            Some(key) => match self.keyed.admit(key, |key| self.circuit(key), clock::now) {
                Some(admission) => admission,
                // No circuit could make room for it.
                None => self.unkeyed.admit(clock::now),
            },
            None => self.unkeyed.admit(clock::now),
        }
    }

    /// The key of calls to this host and model, and whether the model is to be [learned](Self::learn) when it is served.
    pub(super) fn model_key(&self, host: &str, model: Option<&str>) -> (Option<Arc<str>>, bool) {
        let found = self.models.read().unwrap_or_else(PoisonError::into_inner).key(host, model);
        match found {
            ModelKey::Known(key) => (Some(key), false),
            ModelKey::Unknown(key) => (Some(key), true),
            ModelKey::NewHost if self.models.write().unwrap_or_else(PoisonError::into_inner).add_host(host) => {
                self.model_key(host, model)
            }
            ModelKey::NewHost => (None, false),
        }
    }

    #[cold]
    pub(super) fn learn(&self, host: &str, model: &str) {
        self.models.write().unwrap_or_else(PoisonError::into_inner).learn(host, model);
    }

    #[inline]
    pub(super) fn unkeyed(&self) -> &Arc<Circuit> {
        &self.unkeyed
    }

    pub(super) fn keyed(&self, key: &str) -> Arc<Circuit> {
        self.keyed.get(key, |key| self.circuit(key))
    }

    pub(super) fn all_keyed(&self) -> Vec<Arc<Circuit>> {
        self.keyed.all()
    }

    pub(super) fn config(&self) -> CircuitBreakerConfig {
        lock(&self.config).clone()
    }

    /// Changes the settings of all circuits, those that are made later included.
    pub(super) fn configure(&self, change: impl FnOnce(CircuitBreakerConfig) -> CircuitBreakerConfig) {
        let mut config = lock(&self.config);
        *config = change(config.clone());
        self.keyed.set_capacity(config.max_keys);
        let now = clock::now();
        for circuit in self.all_keyed().iter().chain([&self.unkeyed]) {
            set_limits(circuit, &config);
            circuit.with(|machine| ((), machine.configure(config.settings.clone(), now)));
        }
    }

    pub(super) fn observe(&self, emitter: Emitter) {
        self.emitter.set(emitter);
    }

    /// Lets this prober look after the circuits that open, if none does yet.
    pub(super) fn probe_with(&self, prober: impl FnOnce(watch::Receiver<()>) -> Prober) {
        self.prober.get_or_init(|| prober(self.alive.subscribe()));
    }

    fn circuit(&self, key: Arc<str>) -> Arc<Circuit> {
        circuit(&lock(&self.config), Some(key), &self.emitter, &self.prober)
    }
}

fn circuit(
    config: &CircuitBreakerConfig,
    key: Option<Arc<str>>,
    emitter: &Arc<SharedEmitter>,
    prober: &Arc<OnceLock<Prober>>,
) -> Arc<Circuit> {
    let now = clock::now();
    let machine = Breaker::new(config.settings.clone(), fastrand::u64(..), now);
    let notifier = StateNotifier::new(key, emitter.clone(), machine.state(), Arc::downgrade(prober));
    let circuit = Circuit::new(machine, threads(), notifier, now);
    set_limits(&circuit, config);
    circuit
}

fn set_limits(circuit: &Circuit, config: &CircuitBreakerConfig) {
    let (slow_after, whole_body, patience) = config.limits();
    circuit.shards().iter().for_each(|shard| shard.limits().set(slow_after, whole_body, patience));
}

/// How many threads run at once. Asking reads files.
fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get))
}
