//! How processes supersede each other's messages.

use std::fmt;
use std::sync::Weak;

use crate::proto::fingerprint::Fingerprint;

/// Shares conversations with other processes: see [`SupersedeLayer::share`](crate::SupersedeLayer::share).
///
/// The layer calls both methods on tasks that make calls: they must return at once, and move slow work to tasks of their
/// own. The crate `tower-buttress-redis` has an implementation over Redis.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use http::HeaderName;
/// use tower_buttress::{PeerMessage, SupersedeLayer, SupersedePeers};
///
/// /// The messages under way in this process.
/// #[derive(Default)]
/// struct Log(Mutex<Vec<PeerMessage>>);
///
/// impl SupersedePeers for Log {
///     fn on_message(&self, message: PeerMessage) {
///         self.0.lock().unwrap().push(message);
///     }
///
///     fn on_end(&self, message: PeerMessage, _is_answered: bool) {
///         self.0.lock().unwrap().retain(|other| other.payload() != message.payload());
///     }
/// }
///
/// let layer = SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id")).share(Arc::new(Log::default()));
/// # let _ = layer;
/// ```
pub trait SupersedePeers: Send + Sync {
    /// Called when a message that supersedes earlier ones has come, for the first time or again.
    fn on_message(&self, message: PeerMessage);

    /// Called when the call of a message has ended; `is_answered`: with an answer that clients do not retry.
    fn on_end(&self, message: PeerMessage, is_answered: bool);
}

/// One message of this process, for [`SupersedePeers`]. It does not keep its call alive.
#[derive(Clone)]
pub struct PeerMessage {
    conversations: Weak<dyn Superseding>,
    tenant: Fingerprint,
    conversation: Fingerprint,
    payload: Fingerprint,
    is_served: bool,
}

/// The conversations of a layer.
pub(crate) trait Superseding: Send + Sync {
    fn supersede(&self, conversation: &Fingerprint, payload: &Fingerprint);

    fn refuse(&self, conversation: &Fingerprint, payload: &Fingerprint);
}

// === impl PeerMessage ===

impl PeerMessage {
    pub(crate) fn new(
        conversations: Weak<dyn Superseding>,
        tenant: Fingerprint,
        conversation: Fingerprint,
        payload: Fingerprint,
        is_served: bool,
    ) -> Self {
        Self { conversations, tenant, conversation, payload, is_served }
    }

    /// The upstream has answered its call with a 2xx, over gRPC with the status OK.
    pub(crate) fn set_served(&mut self) {
        self.is_served = true;
    }

    /// Identifies the tenant in every process: a digest of its name, or of its credentials.
    #[must_use]
    pub fn tenant(&self) -> &Fingerprint {
        &self.tenant
    }

    /// Identifies the conversation in every process: a digest of its name and its tenant.
    #[must_use]
    pub fn conversation(&self) -> &Fingerprint {
        &self.conversation
    }

    /// The payload of the message. The same payload is another attempt at the same message.
    #[must_use]
    pub fn payload(&self) -> &Fingerprint {
        &self.payload
    }

    /// Whether the tenant is authenticated, or the upstream has answered this call with a 2xx, over gRPC with the status
    /// OK. Any caller can invent other tenants: limit all of these together as one tenant.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.is_served
    }

    /// Reports a newer message in another process. The calls of this one end, and it is refused when it comes again.
    pub fn supersede(&self) {
        if let Some(conversations) = self.conversations.upgrade() {
            conversations.supersede(&self.conversation, &self.payload);
        }
    }

    /// Reports that a message of this conversation with this payload was superseded in another process. It is refused
    /// when it comes here, and ends nothing.
    pub fn refuse(&self, payload: &Fingerprint) {
        if let Some(conversations) = self.conversations.upgrade() {
            conversations.refuse(&self.conversation, payload);
        }
    }
}

impl fmt::Debug for PeerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerMessage").field("conversation", &self.conversation).finish_non_exhaustive()
    }
}
