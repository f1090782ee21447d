//! Conversations shared by processes.

mod driver;
mod live;
mod served;

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tower_buttress::store::Fingerprint;
use tower_buttress::{PeerMessage, SupersedePeers};

use self::driver::{Changed, Messages};
use self::live::LiveMessages;
use crate::backend::{ConversationBackend, MessageId};
use crate::client::Redis;
use crate::driver::{NotSent, Updates};

/// Shares the conversations of a [`SupersedeLayer`](tower_buttress::SupersedeLayer) with other processes: the newest
/// message of a conversation is the newest in all of them.
///
/// ```
/// use std::sync::Arc;
/// use http::HeaderName;
/// use tower_buttress::SupersedeLayer;
/// use tower_buttress_redis::{FleetSupersede, Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// let conversations = HeaderName::from_static("x-conversation-id");
/// let supersede = SupersedeLayer::by_header(conversations).share(Arc::new(FleetSupersede::new(redis)));
/// # let _ = supersede;
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *A message comes*: it is sent at once, and gets its number in the conversation meanwhile. The order is that of
///   arrival at Redis; messages that reach Redis more than 0.1 s late are ordered by their arrival at their processes.
/// - *A newer one comes to another process*: its calls end here within milliseconds, as if it had come here.
/// - *The same payload comes to another process*: it is another attempt at the same message, and ends nothing.
/// - *A superseded message comes again, to any process*, within ten minutes: it ends as soon as Redis replies, and
///   ends nothing. Redis keeps sixteen per conversation, and none that was answered.
/// - *Redis missed that a message was answered*: the report is repeated for ten minutes until Redis has it, with fewer
///   than 4,096 conversations in flight here. If a newer message comes earlier, the answered one is refused when it
///   comes again.
/// - *A tenant has too many conversations* ([`tenant_conversations`](Self::tenant_conversations)): its new ones are ordered
///   by each process alone.
/// - *This process missed messages of Redis*: it asks again about each message in flight.
/// - *Redis is unreachable or slow*: each process knows the order of its own messages. A message that came meanwhile
///   gets its number once Redis answers, by the time when it came. Conversations do not wait for each other; 64
///   requests run at a time.
///
/// # Cost
///
/// One script per message, beside its call, and one when it was answered. Every process receives every message, about
/// 70 bytes.
pub struct FleetSupersede<B = Redis> {
    backend: B,
    name: String,
    live: Arc<LiveMessages>,
    most: u64,
    updates: Updates<Changed>,
}

/// The default number of one tenant's shared conversations.
const MOST: u64 = 16_384;

// === impl FleetSupersede ===

impl<B: ConversationBackend> FleetSupersede<B> {
    /// The conversations on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, name: String::new(), live: Arc::default(), most: MOST, updates: Updates::new() }
    }

    /// Separates these conversations from those of layers with another name: layers with the same name on one Redis
    /// share them. Default: no name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Limits the conversations of one tenant in Redis, each of which takes up to 1.5 KiB for an hour after its last
    /// message. Default: 16,384. Beyond the limit a new conversation is not shared until older ones expire: each process
    /// knows the order of its own messages.
    ///
    /// Callers without an authenticated [`Tenant`](tower_buttress::Tenant) can invent tenants: all of them together have
    /// the room of one. A tenant has its own room once the upstream has answered one of its calls with a 2xx, and in each
    /// process that has seen that, 16,384 such tenants at most.
    #[must_use]
    pub fn tenant_conversations(mut self, conversations: u64) -> Self {
        self.most = conversations;
        self
    }

    fn id(&self, message: &PeerMessage) -> MessageId {
        let mut conversation = *message.conversation();
        if !self.name.is_empty() {
            let named = Sha256::new().chain_update(conversation.as_bytes()).chain_update(&self.name);
            conversation = Fingerprint::from_bytes(named.finalize().into());
        }
        MessageId { conversation, payload: *message.payload() }
    }

    fn changed(&self, id: MessageId) {
        let driver = || Messages::new(self.backend.clone(), self.live.clone(), self.most);
        match self.updates.send(Changed(id.conversation), driver) {
            Ok(()) => {}
            Err(NotSent::Busy) => self.live.look_at_all(),
            // Without a task no reply would ever come, and the message would stay here.
            Err(NotSent::NoTask) => self.live.forget(&id),
        }
    }
}

impl<B: ConversationBackend> SupersedePeers for FleetSupersede<B> {
    fn on_message(&self, message: PeerMessage) {
        if Handle::try_current().is_ok() {
            let id = self.id(&message);
            self.live.came(id, message);
            self.changed(id);
        }
    }

    fn on_end(&self, message: PeerMessage, is_answered: bool) {
        let id = self.id(&message);
        self.live.ended(&id, message.is_served(), is_answered);
        self.changed(id);
    }
}

impl<B> fmt::Debug for FleetSupersede<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSupersede").finish_non_exhaustive()
    }
}
