//! The task that reports this process's messages to Redis, and ends those that a newer one superseded.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_buttress::store::Fingerprint;

use super::live::{LiveMessages, RedisRequest};
use crate::backend::{BackendError, ConversationBackend, ConversationNews, MessageId, Newest};
use crate::driver::{Driver, Subscribing};

/// A conversation has changed.
pub(super) struct Changed(pub(super) Fingerprint);

pub(super) struct Messages<B> {
    backend: B,
    live: Arc<LiveMessages>,
    /// How many conversations of one tenant are shared.
    most: u64,
    /// Unanswered requests to Redis: one at a time per conversation, so that its messages stay in order.
    asking: JoinSet<(MessageId, RedisReply)>,
    /// Their conversations.
    busy: HashSet<Fingerprint>,
    /// Conversations that wait for a free slot.
    waiting: HashSet<Fingerprint>,
    /// When to repeat requests that Redis did not answer.
    ask_again_at: Option<Instant>,
}

/// Redis's reply.
enum RedisReply {
    Newest(Result<Newest, BackendError>),
    /// Whether Redis knows that the message was answered.
    Answered(bool),
}

/// Limit of conversations with a request in flight.
const MOST_ASKED: usize = 64;

/// The wait before a failed request is repeated.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

// === impl Messages ===

impl<B: ConversationBackend> Driver for Messages<B> {
    type Update = Changed;

    fn subscribe(&self) -> Subscribing {
        let backend = self.backend.clone();
        Box::pin(async move { backend.conversation_news().await })
    }

    fn on_update(&mut self, Changed(conversation): Changed) {
        self.ask(conversation);
    }

    fn on_news(&mut self, news: Bytes, _: Instant) {
        let Some(ConversationNews { conversation, number, payload }) = ConversationNews::decode(&news) else {
            return;
        };
        for older in self.live.on_newer(&MessageId { conversation, payload }, number) {
            older.supersede();
        }
        self.ask(conversation);
    }

    async fn on_gap(&mut self) {
        self.live.ask_again(true);
        self.ask_all();
    }

    fn due(&self) -> Option<Instant> {
        if self.live.is_behind() { Some(Instant::now()) } else { self.ask_again_at }
    }

    async fn on_due(&mut self) {
        if self.ask_again_at.is_some_and(|at| at <= Instant::now()) {
            self.ask_again_at = None;
            self.live.ask_again(false);
        }
        self.ask_all();
    }

    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.asking.poll_join_next(cx) {
            Poll::Ready(Some(Ok((message, reply)))) => {
                self.on_reply(&message, reply);
                Poll::Ready(())
            }
            // None is in flight. (The error of a join is a panic, and these tasks do not panic.)
            Poll::Ready(_) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<B: ConversationBackend> Messages<B> {
    pub(super) fn new(backend: B, live: Arc<LiveMessages>, most: u64) -> Self {
        let (busy, waiting) = (HashSet::new(), HashSet::new());
        Self { backend, live, most, asking: JoinSet::new(), busy, waiting, ask_again_at: None }
    }

    fn ask_again(&mut self) {
        self.ask_again_at.get_or_insert(Instant::now() + ASK_AGAIN_AFTER);
    }

    fn ask_all(&mut self) {
        for conversation in self.live.all() {
            self.ask(conversation);
        }
    }

    fn ask(&mut self, conversation: Fingerprint) {
        if self.busy.contains(&conversation) {
            return;
        }
        if self.busy.len() >= MOST_ASKED {
            self.waiting.insert(conversation);
            return;
        }
        let Some((message, question)) = self.live.next(&conversation, self.most) else { return };
        self.busy.insert(conversation);
        let backend = self.backend.clone();
        self.asking.spawn(async move {
            match question {
                RedisRequest::Newest(share, came, known) => {
                    (message, RedisReply::Newest(backend.newest(message, came, known, share).await))
                }
                RedisRequest::Answered(share) => {
                    (message, RedisReply::Answered(backend.answered(message, share).await.is_ok()))
                }
            }
        });
    }

    fn on_reply(&mut self, message: &MessageId, reply: RedisReply) {
        self.busy.remove(&message.conversation);
        match reply {
            RedisReply::Newest(Ok(Newest::Number { number, superseded })) => {
                if let Some((live, is_older)) = self.live.numbered(message, number) {
                    superseded.iter().for_each(|payload| live.refuse(payload));
                    if is_older {
                        live.supersede();
                    }
                }
            }
            RedisReply::Newest(Ok(Newest::Superseded)) => {
                if let Some(live) = self.live.get(message) {
                    live.supersede();
                }
            }
            // This process knows the order of its own messages.
            RedisReply::Newest(Ok(Newest::NoRoom)) => {}
            RedisReply::Newest(Err(_)) => self.ask_again(),
            RedisReply::Answered(is_known) => {
                if self.live.answer_reported(message, is_known) {
                    self.ask_again();
                }
            }
        }
        self.ask(message.conversation);
        let room = MOST_ASKED.saturating_sub(self.busy.len());
        for conversation in self.waiting.iter().take(room).copied().collect::<Vec<_>>() {
            self.waiting.remove(&conversation);
            self.ask(conversation);
        }
    }
}
