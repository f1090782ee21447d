//! The conversations of one layer.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderMap;

use super::config::{Config, NAME, Peers};
use super::key::PendingMessage;
use crate::admission::{CallerHasher, gauge_add};
use crate::body::observed::{BodyEnd, BodyObserver};
use crate::policy::supersede::{Arrival, Arriving, CallId, Conversations, Ended, Refusal, StartTime, SupersedeMode};
use crate::proto::fingerprint::Fingerprint;
use crate::proto::grpc;
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::store::supersede::{PeerMessage, Superseding};

/// The conversations of a layer.
pub struct Shared {
    /// By conversation, so that calls do not wait for each other.
    shards: Box<[Mutex<Conversations<Cancellation>>]>,
    /// The number of messages that have begun to arrive.
    order: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    callers: CallerHasher,
}

/// The state of a [`SupersedeLayer`](crate::SupersedeLayer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SupersedeStats {
    /// The number of known conversations: those with a message in flight, and those with remembered messages.
    pub conversations: usize,
    /// The number of calls of messages, waiting ones included.
    pub in_flight: u64,
    /// The number of waiting calls: to settle, or for earlier messages.
    pub waiting: u64,
}

/// A call of a conversation, from when its message was read to the end of its body.
#[derive(Debug)]
pub struct ConversationCall {
    shared: Arc<Shared>,
    id: CallId,
    cancellation: Cancellation,
    /// Whether it started without a wait.
    goes_at_once: bool,
    /// How it ends, unless noted otherwise.
    ended: Ended,
    /// Whether clients do not retry its complete answer.
    is_final: bool,
    /// Whether a gRPC status in its trailers shows that the upstream has served it.
    is_served_by_status: bool,
    /// Its message at the other processes.
    announced: Option<(Peers, PeerMessage)>,
}

/// Counts a call that waits.
pub(super) struct Waits(Arc<Shared>);

const SHARDS: usize = 16;
/// The default number of remembered conversations without a message in flight. Conversations with a message in flight are
/// not bounded by it.
pub(super) const MOST_IDLE: usize = 16_384;

// === impl Shared ===

impl Shared {
    pub(super) fn new(most_idle: usize) -> Self {
        let each = most_idle.div_ceil(SHARDS);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Conversations::new(each))).collect(),
            order: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            callers: CallerHasher::default(),
        }
    }

    /// Distinguishes tenants.
    pub(super) fn callers(&self) -> &CallerHasher {
        &self.callers
    }

    /// The place of a message that begins to arrive now.
    pub(super) fn next_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Adds a complete message.
    pub(super) fn arrive(
        self: &Arc<Self>,
        message: &PendingMessage,
        order: u64,
        config: &Config,
    ) -> Result<ConversationCall, Refusal> {
        let arriving = Arriving {
            conversation: message.conversation,
            tenant: message.tenant,
            payload: message.payload(),
            order,
            mode: message.mode,
            settle: config.settle,
        };
        let cancellation = Cancellation::new();
        let mut ends = Vec::new();
        let now = clock::now();
        let (arrival, goes_at_once) = self.with(&message.conversation, |conversations| {
            let arrival = conversations.arrive(&arriving, cancellation.clone(), now, &mut ends);
            (arrival, matches!(arrival, Arrival::Enters(id) if conversations.start_time(id, now) == StartTime::Now))
        });
        ends.iter().for_each(Cancellation::cancel);
        match arrival {
            Arrival::Enters(id) => {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                gauge_add("tower_buttress_supersede_in_flight", NAME, 1.0);
                let peers = config.peers.as_ref().filter(|_| message.mode == SupersedeMode::Interrupt);
                let announced = peers.map(|peers| {
                    let this: Arc<dyn Superseding> = self.clone();
                    let announcement = PeerMessage::new(
                        Arc::downgrade(&this),
                        message.tenant_print(),
                        message.conversation,
                        arriving.payload,
                        message.is_authenticated,
                    );
                    peers.0.on_message(announcement.clone());
                    (peers.clone(), announcement)
                });
                let (shared, ended) = (self.clone(), Ended::Unanswered);
                Ok(ConversationCall {
                    shared,
                    id,
                    cancellation,
                    goes_at_once,
                    ended,
                    is_final: false,
                    is_served_by_status: false,
                    announced,
                })
            }
            Arrival::Refused(refusal) => Err(refusal),
        }
    }

    /// Ends the calls of a conversation. Returns their number.
    pub(super) fn cancel(&self, conversation: &Fingerprint) -> usize {
        let mut ends = Vec::new();
        self.with(conversation, |conversations| conversations.cancel(conversation, clock::now(), &mut ends));
        ends.iter().for_each(Cancellation::cancel);
        ends.len()
    }

    /// Removes the remembered messages of a tenant's conversations, or of all. Returns the number of conversations.
    pub(super) fn forget(&self, tenant: Option<u64>) -> usize {
        self.shards.iter().map(|shard| lock(shard).forget(tenant)).sum()
    }

    pub(super) fn stats(&self) -> SupersedeStats {
        SupersedeStats {
            conversations: self.shards.iter().map(|shard| lock(shard).len()).sum(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    fn with<T>(&self, conversation: &Fingerprint, act: impl FnOnce(&mut Conversations<Cancellation>) -> T) -> T {
        let [.., last] = conversation.as_bytes();
        let index = usize::from(*last) % SHARDS;
        // There are exactly that many shards.
        let shard = self.shards.get(index).unwrap_or(&self.shards[0]);
        act(&mut lock(shard))
    }
}

impl Superseding for Shared {
    fn supersede(&self, conversation: &Fingerprint, payload: &Fingerprint) {
        let (mut ends, mut turns) = (Vec::new(), Vec::new());
        self.with(conversation, |conversations| {
            conversations.supersede_one(conversation, payload, clock::now(), &mut ends, &mut turns);
        });
        ends.iter().for_each(Cancellation::cancel);
        turns.iter().for_each(Cancellation::wake);
    }

    fn refuse(&self, conversation: &Fingerprint, payload: &Fingerprint) {
        self.with(conversation, |conversations| conversations.refuse(conversation, *payload, clock::now()));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("stats", &self.stats()).finish()
    }
}

// === impl ConversationCall ===

impl ConversationCall {
    pub(super) fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    /// Ready when the call must end.
    pub(super) fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.cancellation.poll(cx)
    }

    /// Whether it started without a wait.
    pub(super) fn goes_at_once(&self) -> bool {
        self.goes_at_once
    }

    pub(super) fn start_time(&self) -> StartTime {
        self.shared.with(&self.id.conversation(), |conversations| conversations.start_time(self.id, clock::now()))
    }

    pub(super) fn waits(&self) -> Waits {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        gauge_add("tower_buttress_supersede_waiting", NAME, 1.0);
        Waits(self.shared.clone())
    }

    /// The upstream has served the call.
    pub(super) fn served(&mut self) {
        self.announce_served();
        self.shared.with(&self.id.conversation(), |conversations| {
            conversations.served(self.id, clock::now);
        });
    }

    /// Only its trailers show whether the upstream has served it.
    pub(super) fn served_by_status(&mut self) {
        self.is_served_by_status = true;
    }

    /// The upstream has answered with a success, which no invented tenant gets.
    pub(super) fn announce_served(&mut self) {
        if let Some((_, message)) = &mut self.announced {
            message.set_served();
        }
    }

    /// It has an answer that clients do not retry.
    pub(super) fn answered(mut self) {
        self.ended = Ended::Answered;
    }

    /// It ends with its body; `is_final`: clients do not retry a complete one.
    pub(super) fn until_end(mut self, is_final: bool) -> Box<Self> {
        self.is_final = is_final;
        Box::new(self)
    }
}

impl BodyObserver for ConversationCall {
    fn data(&mut self, _empty: bool) {}

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.is_served_by_status && grpc::status(trailers) == Some(grpc::OK) {
            self.served();
        }
    }

    fn over(&mut self, end: BodyEnd<'_>) {
        if self.is_final && matches!(end, BodyEnd::Complete) {
            self.ended = Ended::Answered;
        }
    }
}

impl Drop for ConversationCall {
    fn drop(&mut self) {
        let mut turns = Vec::new();
        self.shared.with(&self.id.conversation(), |conversations| {
            conversations.leave(self.id, self.ended, clock::now, &mut turns);
        });
        turns.iter().for_each(Cancellation::wake);
        if let Some((peers, message)) = self.announced.take() {
            peers.0.on_end(message, self.ended == Ended::Answered);
        }
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        gauge_add("tower_buttress_supersede_in_flight", NAME, -1.0);
    }
}

// === impl Waits ===

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        gauge_add("tower_buttress_supersede_waiting", NAME, -1.0);
    }
}
