use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};

/// The settings.
use crate::body::request::{CallBody, Resend};
use crate::call::{Memory, NoFallback, PinTo};
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

/// The upstreams that may serve a call.
pub(super) enum AllowedUpstreams {
    Primary,
    /// Only the backup, or an upstream within it.
    Backup(PinTo),
    /// The primary, and the backup if that fails.
    Both,
}

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

    /// Returns which upstreams may serve this request.
    pub(super) fn route<B>(&self, request: &Request<B>) -> AllowedUpstreams {
        // A tunnel follows the head of a CONNECT, not a body that could be sent again.
        if !self.is_on() || request.method() == Method::CONNECT {
            return AllowedUpstreams::Primary;
        }
        let extensions = request.extensions();
        match extensions.get::<PinTo>() {
            Some(pin) => pin.through(&self.name).map_or(AllowedUpstreams::Primary, AllowedUpstreams::Backup),
            None if extensions.get::<NoFallback>().is_some() => AllowedUpstreams::Primary,
            None => AllowedUpstreams::Both,
        }
    }

    /// Keeps a request for the backup; `None`, with an event, if it is too large.
    pub(super) fn keep(&self, request: &mut Request<CallBody>) -> Option<Resend> {
        let resend = Resend::keep(request, self.replay_limit, &self.memory);
        if resend.is_none() {
            let reason = "the request body is larger than the replay limit";
            self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
        }
        resend
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
