//! The settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::similar::Similar;
use super::stored::NAME;
use super::template::Template;
use crate::call::Memory;
use crate::event::{Emitter, Event};
use crate::policy::request_scope::{FINGERPRINT_HEADERS, NameTenant};
use crate::policy::verdict::Classifier;
use crate::store::SharedLastGood;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) tenant: Option<Arc<NameTenant>>,
    pub(super) headers: Vec<HeaderName>,
    pub(super) normalized: bool,
    pub(super) similar: Option<Similar>,
    pub(super) template: Option<Arc<Template>>,
    pub(super) peers: Option<Arc<dyn SharedLastGood>>,
    pub(super) ttl: Duration,
    /// How long before its deadline the layer answers a call from memory.
    pub(super) reserve: Duration,
    pub(super) max_answer: usize,
    pub(super) max_body_bytes: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    pub(super) classifier: Classifier,
    pub(super) emitter: Emitter,
}

/// Headers in which applications name the user of a request, in addition to those of every fingerprint.
const SCOPE_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-conversation-id"),
    HeaderName::from_static("x-session-id"),
    HeaderName::from_static("x-thread-id"),
    HeaderName::from_static("x-user-id"),
];

// === impl Config ===

impl Config {
    /// Reports a request or answer that the layer could not handle and passed on.
    #[cold]
    pub(super) fn bypassed(&self, reason: &'static str) {
        self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            tenant: None,
            headers: FINGERPRINT_HEADERS.into_iter().chain(SCOPE_HEADERS).collect(),
            normalized: true,
            similar: None,
            template: None,
            peers: None,
            ttl: Duration::from_secs(60 * 60),
            reserve: Duration::from_millis(250),
            max_answer: 1024 * 1024,
            max_body_bytes: 2 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            classifier: Classifier::default(),
            emitter: Emitter::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("tenant", &self.tenant.is_some())
            .field("normalized", &self.normalized)
            .field("similar", &self.similar)
            .field("template", &self.template.is_some())
            .field("is_shared", &self.peers.is_some())
            .field("ttl", &self.ttl)
            .field("reserve", &self.reserve)
            .field("max_answer", &self.max_answer)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("emitter", &self.emitter)
            .finish_non_exhaustive()
    }
}
