//! Conversations that the processes of a fleet share.

mod driver;
mod live;

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tower_buttress::store::Fingerprint;
use tower_buttress::{PeerMessage, SupersedePeers};

use self::driver::{Changed, Messages};
use self::live::LiveMessages;
use crate::backend::{ConversationBackend, Message};
use crate::client::Redis;
use crate::driver::{Untold, Updates};

/// Shares the conversations of a [`SupersedeLayer`](tower_buttress::SupersedeLayer) with those of other processes: the
/// newest message of a conversation is the newest in all of them, whichever machine it came to.
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
/// - *A message comes*: it is sent at once, and gets its number in the conversation meanwhile. The order is that in which
///   messages came to Redis; of those that Redis was told later than a tenth of a second after they came, that in which they
///   came to their processes.
/// - *A newer one comes to another process*: its calls end here, within milliseconds, as if it had come here.
/// - *The same payload comes to another process*: it is another attempt at the same message, and ends nothing.
/// - *A superseded one comes again, to any process*, within ten minutes: it is ended as soon as Redis has said so, and ends
///   nothing. Sixteen are remembered of each conversation, and none that was answered.
/// - *Redis could not be told that a message was answered*: it is told again until it knows, for ten minutes, where fewer than
///   4,096 conversations are under way here. Where a newer message comes before that, the answered one is refused when it comes
///   again.
/// - *This process missed what Redis published*: it asks again about each message that is under way.
/// - *Redis cannot be reached, or is slow*: each process knows the order of its own messages. A message that came meanwhile
///   gets its number once Redis answers, as of when it came. One conversation does not wait for another; 64 are asked for at
///   the same time, and the others after them.
///
/// # Cost
///
/// A script for each message, beside its call, and one when it was answered. Every process hears of every message, in 70
/// bytes or so.
pub struct FleetSupersede<B = Redis> {
    backend: B,
    name: String,
    live: Arc<LiveMessages>,
    updates: Updates<Changed>,
}

// === impl FleetSupersede ===

impl<B: ConversationBackend> FleetSupersede<B> {
    /// The conversations on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, name: String::new(), live: Arc::default(), updates: Updates::new() }
    }

    /// Tells these conversations from those of layers with another name: on the same Redis, all that have the same name are
    /// one. Default: no name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn id(&self, message: &PeerMessage) -> Message {
        let mut conversation = *message.conversation();
        if !self.name.is_empty() {
            let named = Sha256::new().chain_update(conversation.as_bytes()).chain_update(&self.name);
            conversation = Fingerprint::from_bytes(named.finalize().into());
        }
        Message { conversation, payload: *message.payload() }
    }

    fn changed(&self, id: Message) {
        let driver = || Messages::new(self.backend.clone(), self.live.clone());
        match self.updates.tell(Changed(id.conversation), driver) {
            Ok(()) => {}
            Err(Untold::Busy) => self.live.look_at_all(),
            // Without a task nobody would ever ask, and the message would stay here.
            Err(Untold::NoTask) => self.live.forget(&id),
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
        self.live.ended(&id, is_answered);
        self.changed(id);
    }
}

impl<B> fmt::Debug for FleetSupersede<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSupersede").finish_non_exhaustive()
    }
}
