//! How the messages of one process supersede those of another.

use std::fmt;
use std::sync::Weak;

use crate::proto::fingerprint::Fingerprint;

/// Shares conversations with other processes: see [`SupersedeLayer::share`](crate::SupersedeLayer::share).
///
/// Both methods are called on tasks that make calls: they must return at once, and leave what takes time to a task of
/// their own. The crate `tower-buttress-redis` has one over Redis.
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
    /// A message that supersedes those before it has come, for the first time or again.
    fn on_message(&self, message: PeerMessage);

    /// The call of a message is over; `is_answered`: with an answer that clients do not ask for again.
    fn on_end(&self, message: PeerMessage, is_answered: bool);
}

/// One message of this process, for [`SupersedePeers`]. It does not keep its call alive.
#[derive(Clone)]
pub struct PeerMessage {
    conversations: Weak<dyn Superseding>,
    conversation: Fingerprint,
    payload: Fingerprint,
}

/// The conversations of a layer.
pub(crate) trait Superseding: Send + Sync {
    fn supersede(&self, conversation: &Fingerprint, payload: &Fingerprint);

    fn refuse(&self, conversation: &Fingerprint, payload: &Fingerprint);
}

// === impl PeerMessage ===

impl PeerMessage {
    pub(crate) fn new(conversations: Weak<dyn Superseding>, conversation: Fingerprint, payload: Fingerprint) -> Self {
        Self { conversations, conversation, payload }
    }

    /// What names the conversation in every process: a digest of its name and its tenant.
    #[must_use]
    pub fn conversation(&self) -> &Fingerprint {
        &self.conversation
    }

    /// What the message says. The same payload is another attempt at the same message.
    #[must_use]
    pub fn payload(&self) -> &Fingerprint {
        &self.payload
    }

    /// A newer message has come in another process. The calls of this one end, and when it comes again it is refused.
    pub fn supersede(&self) {
        if let Some(conversations) = self.conversations.upgrade() {
            conversations.supersede(&self.conversation, &self.payload);
        }
    }

    /// In another process a message of this conversation said this, and was superseded. When it comes here it is refused, and
    /// ends nothing.
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
