//! What the clones of a layer, and the services they make, share.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::Duration;

use http::request::Parts;
use tokio::sync::watch;

use super::circuit::Circuit;
use super::classification::Classification;
use super::health::Prober;
use super::notify::StateNotifier;
use super::permit::Permit;
use super::registry::Registry;
use crate::event::Emitter;
use crate::policy::breaker::Breaker;
use crate::policy::breaker::settings::Settings;
use crate::rt::clock;

#[derive(Debug)]
pub(super) struct BreakerSet {
    pub(super) config: Config,
    /// Of the calls without a key.
    unkeyed: Arc<Circuit>,
    keyed: Registry,
    prober: Arc<OnceLock<Prober>>,
    /// Gone with the last clone of the layer and of its services: what works for them ends.
    alive: watch::Sender<()>,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) settings: Settings,
    pub(super) judge: Classification,
    pub(super) key: Option<Key>,
    pub(super) max_keys: NonZeroUsize,
    pub(super) emitter: Emitter,
}

/// Finds the key of a call.
#[derive(Clone)]
pub(super) struct Key(pub(super) Arc<FindKey>);

pub(super) type FindKey = dyn Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync;

// === impl BreakerSet ===

impl BreakerSet {
    pub(super) fn new(config: Config) -> Self {
        let prober = Arc::new(OnceLock::new());
        let unkeyed = config.circuit(None, &prober);
        let keyed = Registry::new(config.max_keys);
        Self { config, unkeyed, keyed, prober, alive: watch::Sender::new(()) }
    }

    /// The only circuit, where calls have no keys.
    #[inline]
    pub(super) fn only(&self) -> Option<&Circuit> {
        self.config.key.is_none().then_some(&self.unkeyed)
    }

    /// Leave to send a request with this head, or when to come back.
    pub(super) fn admit_keyed(&self, parts: &Parts) -> Result<Permit, Option<Duration>> {
        let key = self.config.key.as_ref().and_then(|Key(find)| find(parts));
        match key {
            Some(key) => self.keyed.admit(&key, |key| self.config.circuit(Some(key), &self.prober), clock::now),
            None => self.unkeyed.admit(clock::now),
        }
    }

    pub(super) fn unkeyed(&self) -> &Arc<Circuit> {
        &self.unkeyed
    }

    pub(super) fn keyed(&self, key: &str) -> Arc<Circuit> {
        self.keyed.get(key, |key| self.config.circuit(Some(key), &self.prober))
    }

    pub(super) fn all_keyed(&self) -> Vec<Arc<Circuit>> {
        self.keyed.all()
    }

    /// Lets this prober look after the circuits that open, if none does yet.
    pub(super) fn probe_with(&self, prober: impl FnOnce(watch::Receiver<()>) -> Prober) {
        self.prober.get_or_init(|| prober(self.alive.subscribe()));
    }
}

// === impl Config ===

impl Config {
    fn circuit(&self, key: Option<Arc<str>>, prober: &Arc<OnceLock<Prober>>) -> Arc<Circuit> {
        let now = clock::now();
        let machine = Breaker::new(self.settings.clone(), fastrand::u64(..), now);
        let teller = StateNotifier::new(key, self.emitter.clone(), machine.state(), Arc::downgrade(prober));
        Circuit::new(machine, threads(), &self.judge, teller, now)
    }
}

impl Default for Config {
    fn default() -> Self {
        // A thousand hosts, models or tenants: a few kilobytes each.
        const MAX_KEYS: usize = 1024;
        Self {
            settings: Settings::default(),
            judge: Classification::default(),
            key: None,
            max_keys: NonZeroUsize::new(MAX_KEYS).unwrap_or(NonZeroUsize::MIN),
            emitter: Emitter::default(),
        }
    }
}

/// How many threads run at once. Asking reads files.
fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get))
}

// === impl Key ===

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}
