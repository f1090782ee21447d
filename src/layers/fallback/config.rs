use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;

/// The settings.
use crate::call::Memory;
use crate::event::{Emitter, Event};
use crate::rt::layer_classifier::LayerClassifier;

pub struct Config<Bk> {
    /// `None`: the layer is off. In a lock, since a service need not be `Sync`; only clones of it are called.
    backup: Option<Arc<Mutex<Bk>>>,
    pub(super) name: Arc<str>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) forward_credentials: bool,
    pub(super) own_credentials: bool,
    pub(super) replay_limit: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    pub(super) classifier: LayerClassifier,
    pub(super) emitter: Emitter,
}

#[derive(Clone)]
pub(super) struct Rewrite(pub(super) Arc<dyn Fn(Request<Bytes>) -> Request<Bytes> + Send + Sync>);

/// The name of this layer in events.
pub(super) const NAME: &str = "fallback";
/// The limit of [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer).
const REPLAY_LIMIT: usize = 2 * 1024 * 1024;

// === impl Config ===

impl<Bk> Config<Bk> {
    pub(super) fn new(backup: Option<Bk>) -> Self {
        Self {
            backup: backup.map(|backup| Arc::new(Mutex::new(backup))),
            name: "backup".into(),
            rewrite: None,
            forward_credentials: false,
            own_credentials: false,
            replay_limit: REPLAY_LIMIT,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            classifier: LayerClassifier::default(),
            emitter: Emitter::default(),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.backup.is_some()
    }

    /// Returns a clone of the backup that is not ready yet.
    pub(super) fn backup(&self) -> Option<Bk>
    where
        Bk: Clone,
    {
        self.backup.as_ref().map(|backup| backup.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Says that a request is too large to be sent again.
    #[cold]
    pub(super) fn too_large(&self) {
        let reason = "the request body is larger than the replay limit";
        self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }

    pub(super) fn with_backup<B2>(&self, backup: Option<Arc<Mutex<B2>>>) -> Config<B2> {
        Config {
            backup,
            name: self.name.clone(),
            rewrite: self.rewrite.clone(),
            forward_credentials: self.forward_credentials,
            own_credentials: self.own_credentials,
            replay_limit: self.replay_limit,
            read_timeout: self.read_timeout,
            memory: self.memory.clone(),
            classifier: self.classifier.clone(),
            emitter: self.emitter.clone(),
        }
    }
}

impl<Bk> Clone for Config<Bk> {
    fn clone(&self) -> Self {
        self.with_backup(self.backup.clone())
    }
}

impl<Bk> fmt::Debug for Config<Bk> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("on", &self.is_on())
            .field("name", &self.name)
            .field("rewrites", &self.rewrite.is_some())
            .field("forward_credentials", &self.forward_credentials)
            .field("own_credentials", &self.own_credentials)
            .field("replay_limit", &self.replay_limit)
            .field("read_timeout", &self.read_timeout)
            .field("observer", &self.emitter)
            .finish_non_exhaustive()
    }
}
