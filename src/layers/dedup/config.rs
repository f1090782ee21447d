//! The settings of the layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;

use crate::call::Memory;
use crate::event::{Emitter, Event};
use crate::policy::broadcast::LogLimits;
use crate::policy::request_scope::{FINGERPRINT_HEADERS, NameTenant};
use crate::store::answers::ResumableAnswers;

/// The name of the layer in events.
pub(super) const NAME: &str = "dedup";

/// What the layer does with a request whose `Idempotency-Key` is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InFlightPolicy {
    /// The request joins the call, and reads the same answer.
    #[default]
    Join,
    /// The layer refuses it with a 409, as draft-ietf-httpapi-idempotency-key-header says, and `Retry-After: 1`. Most
    /// SDKs retry after a 409.
    Reject,
}

/// The settings.
#[derive(Clone)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) tenant: Option<Arc<NameTenant>>,
    pub(super) fingerprints: bool,
    pub(super) key_required: bool,
    pub(super) strict_keys: bool,
    pub(super) headers: Vec<HeaderName>,
    pub(super) json_canonical: bool,
    pub(super) in_flight: InFlightPolicy,
    pub(super) window: Duration,
    pub(super) fingerprint_window: Duration,
    pub(super) stateless: Option<Arc<IsStateless>>,
    pub(super) grace: Duration,
    pub(super) finish_abandoned: bool,
    pub(super) max_body_bytes: usize,
    pub(super) read_timeout: Duration,
    pub(super) memory: Memory,
    /// `None`: callers cannot come back.
    pub(super) answers: Option<Arc<ResumableAnswers>>,
    /// The limits of one answer.
    pub(super) limits: LogLimits,
    pub(super) emitter: Emitter,
}

/// Whether a request with this head and body changes no state at the upstream.
pub(super) type IsStateless = dyn Fn(&Parts, &[u8]) -> bool + Send + Sync;

// === impl Config ===

impl Config {
    /// Reports a request that the layer could not handle and passed on.
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
            fingerprints: true,
            key_required: false,
            strict_keys: false,
            headers: FINGERPRINT_HEADERS.to_vec(),
            json_canonical: false,
            in_flight: InFlightPolicy::Join,
            window: Duration::from_secs(60),
            fingerprint_window: Duration::from_secs(2),
            stateless: None,
            grace: Duration::from_secs(5),
            finish_abandoned: false,
            max_body_bytes: 2 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            memory: Memory::default(),
            answers: None,
            limits: LogLimits { bytes: 1024 * 1024, lag: Duration::from_secs(5) },
            emitter: Emitter::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("tenant", &self.tenant.is_some())
            .field("fingerprints", &self.fingerprints)
            .field("key_required", &self.key_required)
            .field("strict_keys", &self.strict_keys)
            .field("in_flight", &self.in_flight)
            .field("window", &self.window)
            .field("fingerprint_window", &self.fingerprint_window)
            .field("grace", &self.grace)
            .field("finish_abandoned", &self.finish_abandoned)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("read_timeout", &self.read_timeout)
            .field("limits", &self.limits)
            .field("answers", &self.answers)
            .field("emitter", &self.emitter)
            .finish_non_exhaustive()
    }
}
