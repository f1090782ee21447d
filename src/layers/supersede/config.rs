use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use crate::call::Memory;
use crate::event::{Emitter, Event};
use crate::policy::supersede::SupersedeMode;
use crate::store::supersede::SupersedePeers;

/// The name of the layer in events and gauges.
pub(super) const NAME: &str = "supersede";

/// The settings.
#[derive(Clone)]
pub struct Config {
    /// `None`: the layer is off.
    pub(super) conversation: Option<Arc<NameConversation>>,
    pub(super) mode: SupersedeMode,
    pub(super) settle: Duration,
    pub(super) max_body_bytes: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    pub(super) emitter: Emitter,
    pub(super) peers: Option<Peers>,
}

/// Passes on the name of the conversation, if there is one.
pub(super) type NameConversation = dyn Fn(&Parts, &mut dyn FnMut(&[u8])) + Send + Sync;

/// The peers of a layer.
#[derive(Clone)]
pub(super) struct Peers(pub(super) Arc<dyn SupersedePeers>);

// === impl Config ===

impl Config {
    pub(super) fn new(conversation: Option<Arc<NameConversation>>) -> Self {
        Self {
            conversation,
            mode: SupersedeMode::Interrupt,
            settle: Duration::ZERO,
            max_body_bytes: 2 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            emitter: Emitter::default(),
            peers: None,
        }
    }

    /// Reports a request that the layer could not handle and passed on.
    #[cold]
    pub(super) fn bypassed(&self, reason: &'static str) {
        self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("enabled", &self.conversation.is_some())
            .field("mode", &self.mode)
            .field("settle", &self.settle)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("emitter", &self.emitter)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SupersedePeers")
    }
}
