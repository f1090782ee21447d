//! The circuits that clones of a layer and their services share.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::watch;

use super::circuit::{Circuit, CircuitListener, CircuitPermit};
use super::config::CircuitBreakerConfig;
use super::health::Prober;
use super::notify::{SharedEmitter, StateNotifier};
use super::peers::{CircuitPeers, PeerCircuit, SharedPeers};
use super::registry::Registry;
use crate::event::Emitter;
use crate::policy::breaker::Breaker;
use crate::policy::breaker::order::CircuitOrder;
use crate::policy::breaker::report::{CircuitChange, CircuitState};
use crate::policy::known_models::{KnownModels, ModelKey};
use crate::rt::clock;
use crate::rt::per_thread::ReadMostly;
use crate::rt::sync::{Mutex, lock};

#[derive(Debug)]
pub(super) struct BreakerSet {
    config: Mutex<CircuitBreakerConfig>,
    /// The circuit of calls without a key.
    unkeyed: Arc<Circuit>,
    keyed: Registry,
    models: ReadMostly<KnownModels>,
    emitter: Arc<SharedEmitter>,
    prober: Arc<OnceLock<Prober>>,
    followers: Arc<Followers>,
    /// Dropped with the last clone of the layer and of its services, which ends their background tasks.
    alive: watch::Sender<()>,
}

/// The listeners to the circuits' changes, while any of them lives.
#[derive(Debug)]
struct Followers {
    /// Owned by the layer: a handle keeps no service alive.
    prober: Weak<OnceLock<Prober>>,
    peers: SharedPeers,
}

/// A model that the upstream has not served yet.
#[derive(Debug)]
pub(super) struct NewModel {
    pub(super) set: Arc<BreakerSet>,
    pub(super) host: Box<str>,
    pub(super) model: Box<str>,
}

// === impl BreakerSet ===

impl BreakerSet {
    pub(super) fn new(config: CircuitBreakerConfig) -> Self {
        let (emitter, prober) = (Arc::default(), Arc::default());
        let followers = Arc::new(Followers { prober: Arc::downgrade(&prober), peers: SharedPeers::default() });
        Self {
            unkeyed: circuit(&config, None, &emitter, &followers),
            keyed: Registry::new(config.max_keys),
            config: Mutex::new(config),
            models: ReadMostly::default(),
            emitter,
            prober,
            followers,
            alive: watch::Sender::new(()),
        }
    }

    /// Admits a call under this key, or returns when to retry.
    pub(super) fn admit(&self, key: Option<&str>) -> Result<CircuitPermit, Option<Duration>> {
        match key {
            Some(key) => {
                let mut new = None;
                let make = |key| new.insert(self.circuit(key)).clone();
                let admission = self.keyed.admit(key, make, clock::now);
                self.tell_peers(new);
                match admission {
                    Some(admission) => admission,
                    // No circuit could be evicted for it.
                    None => self.unkeyed.admit(clock::now),
                }
            }
            None => self.unkeyed.admit(clock::now),
        }
    }

    /// Returns the key of calls to this host and model, and whether to [learn](Self::learn) the model when it is served.
    pub(super) fn model_key(&self, host: &str, model: Option<&str>) -> (Option<Arc<str>>, bool) {
        let found = self.models.read().key(host, model);
        match found {
            ModelKey::Known(key) => (Some(key), false),
            ModelKey::Unknown(key) => (Some(key), true),
            ModelKey::NewHost if self.models.write(|models| models.add_host(host)).is_some_and(|added| added) => {
                self.model_key(host, model)
            }
            ModelKey::NewHost => (None, false),
        }
    }

    #[cold]
    pub(super) fn learn(&self, host: &str, model: &str) {
        self.models.write(|models| models.learn(host, model));
    }

    #[inline]
    pub(super) fn unkeyed(&self) -> &Arc<Circuit> {
        &self.unkeyed
    }

    pub(super) fn keyed(&self, key: &str) -> Arc<Circuit> {
        let new = Cell::new(None);
        let circuit = self.keyed.get(key, |key| {
            let circuit = self.circuit(key);
            new.set(Some(circuit.clone()));
            circuit
        });
        self.tell_peers(new.into_inner());
        circuit
    }

    pub(super) fn all_keyed(&self) -> Vec<Arc<Circuit>> {
        self.keyed.all()
    }

    pub(super) fn config(&self) -> CircuitBreakerConfig {
        lock(&self.config).clone()
    }

    /// Changes the settings of all circuits, including later ones.
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

    /// Lets this prober probe circuits that open, unless there is one.
    pub(super) fn probe_with(&self, prober: impl FnOnce(watch::Receiver<()>) -> Prober) {
        self.prober.get_or_init(|| prober(self.alive.subscribe()));
    }

    /// Shares the circuits with other processes, unless they are shared already.
    pub(super) fn share(&self, peers: impl CircuitPeers) {
        if !self.followers.peers.set(peers) {
            return;
        }
        self.tell_peers(self.all_keyed().into_iter().chain([self.unkeyed.clone()]));
    }

    /// Called outside every lock.
    fn tell_peers(&self, new: impl IntoIterator<Item = Arc<Circuit>>) {
        let Some(peers) = self.followers.peers.get() else { return };
        for circuit in new {
            peers.on_new(PeerCircuit::new(Arc::downgrade(&circuit), circuit.notifier.key().cloned()));
        }
    }

    fn circuit(&self, key: Arc<str>) -> Arc<Circuit> {
        circuit(&lock(&self.config), Some(key), &self.emitter, &self.followers)
    }
}

// === impl Followers ===

impl CircuitListener for Followers {
    fn on_change(&self, circuit: &Weak<Circuit>, change: &CircuitChange) {
        if let Some(peers) = self.peers.get() {
            let key = circuit.upgrade().and_then(|circuit| circuit.notifier.key().cloned());
            peers.on_change(PeerCircuit::new(circuit.clone(), key), change);
        }
        let prober = self.prober.upgrade();
        if let (CircuitState::Open, Some(prober)) = (change.to, prober.as_ref().and_then(|prober| prober.get())) {
            prober.begin(circuit);
        }
    }

    fn on_order(&self, circuit: &Weak<Circuit>, order: CircuitOrder) {
        if let Some(peers) = self.peers.get() {
            let key = circuit.upgrade().and_then(|circuit| circuit.notifier.key().cloned());
            peers.on_order(PeerCircuit::new(circuit.clone(), key), order);
        }
    }
}

// === impl NewModel ===

impl NewModel {
    #[cold]
    pub(super) fn learn(&self) {
        self.set.learn(&self.host, &self.model);
    }
}

fn circuit(
    config: &CircuitBreakerConfig,
    key: Option<Arc<str>>,
    emitter: &Arc<SharedEmitter>,
    followers: &Arc<Followers>,
) -> Arc<Circuit> {
    let now = clock::now();
    let machine = Breaker::new(config.settings.clone(), fastrand::u64(..), now);
    let notifier = StateNotifier::new(key, emitter.clone(), machine.state());
    let circuit = Circuit::new(machine, threads(), notifier, Some(followers.clone()), now);
    set_limits(&circuit, config);
    circuit
}

fn set_limits(circuit: &Circuit, config: &CircuitBreakerConfig) {
    let (slow_after, whole_body, patience) = config.limits();
    circuit.counters().for_each(|counters| counters.limits().set(slow_after, whole_body, patience));
}

/// The number of threads that run at once. Asking the system reads files.
fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get))
}
