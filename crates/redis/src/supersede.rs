//! Conversations that the processes of a fleet share.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower_buttress::store::Fingerprint;
use tower_buttress::{PeerMessage, SupersedePeers};

use crate::backend::{ConversationBackend, ConversationNews, Heard, Message, Newest, Subscription};
use crate::client::Redis;

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
    orders: OnceLock<mpsc::UnboundedSender<Order>>,
}

/// What a layer says.
enum Order {
    Came(PeerMessage),
    Ended(PeerMessage, bool),
}

struct Driver<B> {
    backend: B,
    name: String,
    live: HashMap<Message, Live>,
    news: Option<Subscription>,
    subscribe_at: Instant,
}

/// A message that is under way here.
struct Live {
    message: PeerMessage,
    /// Zero: Redis did not say.
    number: u64,
    calls: u32,
}

/// Between two attempts to subscribe.
const SUBSCRIBE_EVERY: Duration = Duration::from_secs(5);

// === impl FleetSupersede ===

impl<B: ConversationBackend> FleetSupersede<B> {
    /// The conversations on this engine.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { backend, name: String::new(), orders: OnceLock::new() }
    }

    /// Tells these conversations from those of layers with another name: on the same Redis, all that have the same name are
    /// one. Default: no name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Without a runtime nothing is shared.
    fn order(&self, order: Order) {
        if Handle::try_current().is_err() {
            return;
        }
        let orders = self.orders.get_or_init(|| {
            let (sender, orders) = mpsc::unbounded_channel();
            let (backend, name, subscribe_at) = (self.backend.clone(), self.name.clone(), Instant::now());
            let driver = Driver { backend, name, live: HashMap::new(), news: None, subscribe_at };
            tokio::spawn(driver.run(orders));
            sender
        });
        let _ = orders.send(order);
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

// === impl Driver ===

impl<B: ConversationBackend> Driver<B> {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            if self.news.is_none() && self.subscribe_at <= Instant::now() {
                self.news = self.backend.conversation_news().await.ok();
                self.subscribe_at = Instant::now() + SUBSCRIBE_EVERY;
                self.look_at_all().await;
            }
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Came(message)) => self.on_came(message).await,
                    Some(Order::Ended(message, is_answered)) => self.on_ended(&message, is_answered).await,
                    None => return,
                },
                heard = next(&mut self.news) => match heard {
                    Some(Heard::Message(message)) => {
                        if let Some(news) = ConversationNews::decode(&message) {
                            self.on_number(&news.conversation, news.number, Some(&news.payload));
                        }
                    }
                    Some(Heard::Gap) => self.look_at_all().await,
                    None => self.news = None,
                },
                () = tokio::time::sleep_until(self.subscribe_at), if self.news.is_none() => {}
            }
        }
    }

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

    async fn look_at_all(&self) {
        for id in self.live.keys() {
            if let Ok(number) = self.backend.number(id.conversation).await {
                self.on_number(&id.conversation, number, None);
            }
        }
    }
}

async fn next(news: &mut Option<Subscription>) -> Option<Heard> {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}
