//! The connection for subscriptions, and the receivers of each channel.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Client, Msg, RedisResult};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// The messages of a channel from now on. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<(Delivery, Instant)>,
    queue: Arc<MessageBuffer>,
    /// Unsubscribes when dropped.
    _guard: Option<Unsubscribe>,
}

/// A message, or a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// A message.
    Message(Bytes),
    /// Messages may be missing: the connection was lost, or they were not read in time.
    Gap,
}

/// The sending half of a [`Subscription`].
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    messages: mpsc::Sender<(Delivery, Instant)>,
    queue: Arc<MessageBuffer>,
}

/// State of both halves.
#[derive(Debug, Default)]
struct MessageBuffer {
    /// Whether messages were dropped since the last read.
    missed: AtomicBool,
    /// The bytes that wait to be read.
    bytes: AtomicUsize,
}

/// The connection, opened by the first subscription.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    client: Client,
    requests: OnceCell<mpsc::UnboundedSender<Request>>,
    numbers: AtomicU64,
}

#[derive(Debug)]
enum Request {
    Subscribe {
        channel: Vec<u8>,
        number: u64,
        publisher: Publisher,
        done: oneshot::Sender<()>,
    },
    Unsubscribe {
        channel: Vec<u8>,
        number: u64,
    },
    /// The connection for commands was lost: check this one.
    Check,
}

#[derive(Debug)]
struct Unsubscribe {
    channel: Vec<u8>,
    number: u64,
    requests: mpsc::UnboundedSender<Request>,
}

/// The task that owns the connection.
struct Task {
    client: Client,
    requests: mpsc::UnboundedReceiver<Request>,
    channels: HashMap<Vec<u8>, HashMap<u64, Publisher>>,
    /// Subscribers that wait for Redis's confirmation.
    waiting: Vec<oneshot::Sender<()>>,
}

/// Why a connection ended.
enum ConnectionEnd {
    /// It was lost.
    Lost,
    /// No receiver can subscribe any more.
    Closed,
}

/// Limit of messages that wait to be read.
const QUEUE: usize = 64;

/// Limit of bytes that wait. The first message is accepted at any length.
const QUEUE_BYTES: usize = 256 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval of pings: a connection whose peer vanished is replaced within 1 s, before other processes consider
/// this one dead.
const PING_EVERY: Duration = Duration::from_millis(500);
const PING_TIMEOUT: Duration = Duration::from_millis(500);

const RECONNECT_AFTER: Duration = Duration::from_millis(50);
const RECONNECT_AFTER_AT_MOST: Duration = Duration::from_secs(2);

// === impl Subscription ===

impl Subscription {
    /// A subscription, and its sending half.
    pub(crate) fn new() -> (Publisher, Self) {
        let (sender, messages) = mpsc::channel(QUEUE);
        let queue = Arc::<MessageBuffer>::default();
        (Publisher { messages: sender, queue: queue.clone() }, Self { messages, queue, _guard: None })
    }

    /// The next message; `None`: the subscription ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| self.poll_next(cx)).await.map(|(delivery, _)| delivery)
    }

    /// The next message, and when it arrived; the reader may have been busy since.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Delivery, Instant)>> {
        let next = ready!(self.messages.poll_recv(cx));
        if let Some((delivery, _)) = &next {
            self.queue.bytes.fetch_sub(delivery.len(), Relaxed);
        }
        let is_gap = self.queue.missed.swap(false, Relaxed);
        Poll::Ready(if is_gap { Some((Delivery::Gap, Instant::now())) } else { next })
    }

    /// Whether no message waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.messages.is_empty() && !self.queue.missed.load(Relaxed)
    }
}

// === impl Publisher ===

impl Publisher {
    /// Whether the subscription still exists.
    #[cfg(any(test, feature = "model"))]
    pub(crate) fn has_subscriber(&self) -> bool {
        !self.messages.is_closed()
    }

    /// Returns whether there is a receiver.
    pub(crate) fn send(&self, delivery: Delivery) -> bool {
        let (bytes, now) = (delivery.len(), Instant::now());
        // Counted before it can be read.
        let waiting = self.queue.bytes.fetch_add(bytes, Relaxed);
        let sent = if waiting > 0 && waiting.saturating_add(bytes) > QUEUE_BYTES {
            Err(mpsc::error::TrySendError::Full((delivery, now)))
        } else {
            self.messages.try_send((delivery, now))
        };
        if sent.is_err() {
            self.queue.bytes.fetch_sub(bytes, Relaxed);
        }
        match sent {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.queue.missed.store(true, Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

// === impl Delivery ===

impl Delivery {
    fn len(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::Gap => 0,
        }
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, requests: OnceCell::new(), numbers: AtomicU64::new(0) }
    }

    /// Subscribes to a channel, and waits for Redis's confirmation.
    pub(crate) async fn subscribe(&self, channel: &[u8]) -> Option<Subscription> {
        let requests = self.requests.get_or_init(|| async { Task::spawn(self.client.clone()) }).await;
        let (publisher, mut subscription) = Subscription::new();
        let (done, confirmed) = oneshot::channel();
        let number = self.numbers.fetch_add(1, Relaxed);
        let channel = channel.to_vec();
        // Created first, so that dropping this future also unsubscribes.
        subscription._guard = Some(Unsubscribe { channel: channel.clone(), number, requests: requests.clone() });
        requests.send(Request::Subscribe { channel, number, publisher, done }).ok()?;
        confirmed.await.ok()?;
        Some(subscription)
    }

    /// Checks the connection now instead of with the next ping.
    pub(crate) fn check(&self) {
        if let Some(requests) = self.requests.get() {
            let _ = requests.send(Request::Check);
        }
    }
}

// === impl Unsubscribe ===

impl Drop for Unsubscribe {
    fn drop(&mut self) {
        let channel = std::mem::take(&mut self.channel);
        let _ = self.requests.send(Request::Unsubscribe { channel, number: self.number });
    }
}

// === impl Task ===

impl Task {
    fn spawn(client: Client) -> mpsc::UnboundedSender<Request> {
        let (sender, requests) = mpsc::unbounded_channel();
        let task = Self { client, requests, channels: HashMap::new(), waiting: Vec::new() };
        tokio::spawn(task.run());
        sender
    }

    async fn run(mut self) {
        let mut pause = RECONNECT_AFTER;
        let mut is_first = true;
        loop {
            if let Some((sink, stream)) = self.connect().await {
                pause = RECONNECT_AFTER;
                // Messages published while disconnected were missed too.
                if !std::mem::take(&mut is_first) {
                    self.publish_gap();
                }
                if let ConnectionEnd::Closed = self.serve(sink, stream).await {
                    return;
                }
                self.publish_gap();
            }
            // New subscriptions wait until there is a connection.
            let until = Instant::now() + pause;
            pause = (pause * 2).min(RECONNECT_AFTER_AT_MOST);
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    request = self.requests.recv() => match request {
                        Some(request) => { self.note(request); }
                        None => return,
                    },
                }
            }
        }
    }

    /// Opens a connection with all subscriptions.
    async fn connect(&mut self) -> Option<(PubSubSink, PubSubStream)> {
        let (mut sink, stream) = timeout(CONNECT_TIMEOUT, self.client.get_async_pubsub()).await.ok()?.ok()?.split();
        let channels: Vec<&[u8]> = self.channels.keys().map(Vec::as_slice).collect();
        if !channels.is_empty() {
            timeout(CONNECT_TIMEOUT, sink.subscribe(channels)).await.ok()?.ok()?;
        }
        self.waiting.drain(..).for_each(|done| {
            let _ = done.send(());
        });
        Some((sink, stream))
    }

    async fn serve(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> ConnectionEnd {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let done = tokio::select! {
                biased;
                message = next(&mut stream) => match message {
                    Some(message) => { self.publish(&message); continue }
                    None => return ConnectionEnd::Lost,
                },
                request = self.requests.recv() => match request {
                    Some(Request::Check) => confirmed(PING_TIMEOUT, sink.ping::<redis::Value>()).await,
                    Some(request) => match self.note(request) {
                        Some(Change::Added(channel)) => confirmed(CONNECT_TIMEOUT, sink.subscribe(channel)).await,
                        Some(Change::Removed(channel)) => confirmed(CONNECT_TIMEOUT, sink.unsubscribe(channel)).await,
                        None => true,
                    },
                    None => return ConnectionEnd::Closed,
                },
                _ = ping.tick() => confirmed(PING_TIMEOUT, sink.ping::<redis::Value>()).await,
            };
            if !done {
                return ConnectionEnd::Lost;
            }
            self.waiting.drain(..).for_each(|done| {
                let _ = done.send(());
            });
        }
    }

    /// Records a receiver. Returns what to send to Redis.
    fn note(&mut self, request: Request) -> Option<Change> {
        match request {
            Request::Subscribe { channel, number, publisher, done } => {
                self.waiting.retain(|done| !done.is_closed());
                self.waiting.push(done);
                let publishers = self.channels.entry(channel.clone()).or_default();
                publishers.insert(number, publisher);
                (publishers.len() == 1).then_some(Change::Added(channel))
            }
            Request::Unsubscribe { channel, number } => {
                let publishers = self.channels.get_mut(&channel)?;
                publishers.remove(&number);
                if !publishers.is_empty() {
                    return None;
                }
                self.channels.remove(&channel);
                Some(Change::Removed(channel))
            }
            // Only checks the connection.
            Request::Check => None,
        }
    }

    fn publish_gap(&self) {
        self.channels.values().flat_map(HashMap::values).for_each(|publisher| {
            publisher.send(Delivery::Gap);
        });
    }

    fn publish(&self, message: &Msg) {
        let Some(publishers) = self.channels.get(message.get_channel_name().as_bytes()) else { return };
        let bytes = Bytes::copy_from_slice(message.get_payload_bytes());
        for publisher in publishers.values() {
            publisher.send(Delivery::Message(bytes.clone()));
        }
    }
}

enum Change {
    Added(Vec<u8>),
    Removed(Vec<u8>),
}

async fn next(stream: &mut PubSubStream) -> Option<Msg> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

/// Whether Redis confirms it in time.
async fn confirmed<T>(limit: Duration, answer: impl Future<Output = RedisResult<T>>) -> bool {
    matches!(timeout(limit, answer).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_stopped_waiting_is_forgotten() {
        let (_requests, receiver) = mpsc::unbounded_channel();
        let client = Client::open("redis://127.0.0.1:1").unwrap();
        let mut task = Task { client, requests: receiver, channels: HashMap::new(), waiting: Vec::new() };
        // No connection succeeds, and each attempt ends after a while.
        for number in 0..100 {
            let ((done, confirmed), (publisher, subscription)) = (oneshot::channel(), Subscription::new());
            task.note(Request::Subscribe { channel: b"c".to_vec(), number, publisher, done });
            drop((confirmed, subscription));
            task.note(Request::Unsubscribe { channel: b"c".to_vec(), number });
        }
        assert!(task.waiting.len() <= 1 && task.channels.is_empty(), "{} wait", task.waiting.len());
    }
}
