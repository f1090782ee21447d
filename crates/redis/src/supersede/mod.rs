//! Conversations that the processes of a fleet share.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tower_buttress::store::Fingerprint;
use tower_buttress::{PeerMessage, SupersedePeers};

use crate::backend::{BackendError, ConversationBackend, ConversationNews, Message, Newest, Subscription};
use crate::client::Redis;
use crate::driver::{Driver, Orders};

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
///   messages came to Redis.
/// - *A newer one comes to another process*: its calls end here, within milliseconds, as if it had come here.
/// - *The same payload comes to another process*: it is another attempt at the same message, and ends nothing.
/// - *A superseded one comes again, to any process*, within ten minutes: it is ended as soon as Redis has said so, and ends
///   nothing. Sixteen are remembered of each conversation, and none that was answered.
/// - *Messages of Redis were missed*: the numbers of the conversations that are under way are asked for.
/// - *Redis cannot be reached*: each process knows the order of its own messages. A message that came meanwhile has no
///   number, and is superseded by the next one that has.
///
/// # Cost
///
/// A script for each message, beside its call, and one when it was answered. Every process hears of every message, in 70
/// bytes or so.
pub struct FleetSupersede<B = Redis> {
    backend: B,
    name: String,
    orders: Orders<Order>,
}

/// What a layer says.
enum Order {
    Came(PeerMessage),
    Ended(PeerMessage, bool),
}

struct Messages<B> {
    backend: B,
    name: String,
    live: HashMap<Message, Live>,
}

/// A message that is under way here.
struct Live {
    message: PeerMessage,
    /// Zero: Redis did not say.
    number: u64,
    calls: u32,
}

// === impl FleetSupersede ===

impl<B: ConversationBackend> FleetSupersede<B> {
    /// The conversations on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, name: String::new(), orders: Orders::new() }
    }

    /// Tells these conversations from those of layers with another name: on the same Redis, all that have the same name are
    /// one. Default: no name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn order(&self, order: Order) {
        let (backend, name) = (self.backend.clone(), self.name.clone());
        self.orders.tell(order, || Messages { backend, name, live: HashMap::new() });
    }
}

impl<B: ConversationBackend> SupersedePeers for FleetSupersede<B> {
    fn on_message(&self, message: PeerMessage) {
        self.order(Order::Came(message));
    }

    fn on_end(&self, message: PeerMessage, is_answered: bool) {
        self.order(Order::Ended(message, is_answered));
    }
}

impl<B> fmt::Debug for FleetSupersede<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSupersede").finish_non_exhaustive()
    }
}

// === impl Messages ===

impl<B: ConversationBackend> Driver for Messages<B> {
    type Order = Order;

    async fn subscribe(&self) -> Result<Subscription, BackendError> {
        self.backend.conversation_news().await
    }

    async fn on_order(&mut self, order: Order) {
        match order {
            Order::Came(message) => self.on_came(message).await,
            Order::Ended(message, is_answered) => self.on_ended(&message, is_answered).await,
        }
    }

    fn on_message(&mut self, message: Bytes) {
        if let Some(news) = ConversationNews::decode(&message) {
            self.on_number(&news.conversation, news.number, Some(&news.payload));
        }
    }

    async fn on_gap(&mut self) {
        for id in self.live.keys() {
            if let Ok(number) = self.backend.number(id.conversation).await {
                self.on_number(&id.conversation, number, None);
            }
        }
    }
}

impl<B: ConversationBackend> Messages<B> {
    async fn on_came(&mut self, message: PeerMessage) {
        let id = self.id(&message);
        let newest = self.backend.newest(id).await;
        let live = self.live.entry(id).or_insert(Live { message, number: 0, calls: 0 });
        live.calls += 1;
        match newest {
            Ok(Newest::Number { number, superseded }) => {
                live.number = number;
                superseded.iter().for_each(|payload| live.message.refuse(payload));
            }
            Ok(Newest::Superseded) => live.message.supersede(),
            Err(_) => {}
        }
    }

    async fn on_ended(&mut self, message: &PeerMessage, is_answered: bool) {
        let id = self.id(message);
        if let Some(live) = self.live.get_mut(&id) {
            live.calls = live.calls.saturating_sub(1);
            if live.calls == 0 {
                self.live.remove(&id);
            }
        }
        if is_answered {
            let _ = self.backend.answered(id).await;
        }
    }

    fn id(&self, message: &PeerMessage) -> Message {
        let mut conversation = *message.conversation();
        if !self.name.is_empty() {
            let named = Sha256::new().chain_update(conversation.as_bytes()).chain_update(&self.name);
            conversation = Fingerprint::from_bytes(named.finalize().into());
        }
        Message { conversation, payload: *message.payload() }
    }

    /// The newest message of a conversation has this number, and says that, where it is known.
    fn on_number(&self, conversation: &Fingerprint, number: u64, payload: Option<&Fingerprint>) {
        let older = |(id, live): &(&Message, &Live)| {
            // Of one without a number it is not known that it is older: its own may have been lost on its way.
            let is_older = if payload.is_some() { live.number < number } else { (1..number).contains(&live.number) };
            id.conversation == *conversation && is_older && payload != Some(&id.payload)
        };
        self.live.iter().filter(older).for_each(|(_, live)| live.message.supersede());
    }
}
