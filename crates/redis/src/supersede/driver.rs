//! The task that tells Redis of the messages here, and the calls of newer ones elsewhere.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_buttress::store::Fingerprint;

use super::live::{Ask, LiveMessages};
use crate::backend::{BackendError, ConversationBackend, ConversationNews, Message, Newest};
use crate::driver::{Driver, Subscribing};

/// Something has changed in a conversation.
pub(super) struct Changed(pub(super) Fingerprint);

pub(super) struct Messages<B> {
    backend: B,
    live: Arc<LiveMessages>,
    /// What Redis is asked for: of one conversation one thing after the other, so that its order is kept.
    asking: JoinSet<(Message, Answer)>,
    busy: HashSet<Fingerprint>,
    /// Those that wait until fewer are asked for.
    waiting: HashSet<Fingerprint>,
    /// Redis did not answer: it is asked again then.
    ask_again_at: Option<Instant>,
}

/// What Redis said.
enum Answer {
    Newest(Result<Newest, BackendError>),
    /// Whether it knows that the message was answered.
    Answered(bool),
}

/// The most conversations that are asked for at the same time.
const MOST_ASKED: usize = 64;

/// Redis did not answer, or is not asked for a while.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

// === impl Messages ===

impl<B: ConversationBackend> Driver for Messages<B> {
    type Order = Changed;

    fn subscribe(&self) -> Subscribing {
        let backend = self.backend.clone();
        Box::pin(async move { backend.conversation_news().await })
    }

    async fn on_order(&mut self, Changed(conversation): Changed) {
        self.ask(conversation);
    }

    fn on_message(&mut self, message: Bytes) {
        let Some(ConversationNews { conversation, number, payload }) = ConversationNews::decode(&message) else {
            return;
        };
        for older in self.live.on_newer(&Message { conversation, payload }, number) {
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
            Poll::Ready(Some(Ok((message, answer)))) => {
                self.on_answer(&message, answer);
                Poll::Ready(())
            }
            // Nothing is asked for. (No task of these ends otherwise.)
            Poll::Ready(_) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<B: ConversationBackend> Messages<B> {
    pub(super) fn new(backend: B, live: Arc<LiveMessages>) -> Self {
        let (busy, waiting) = (HashSet::new(), HashSet::new());
        Self { backend, live, asking: JoinSet::new(), busy, waiting, ask_again_at: None }
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
        let Some((message, ask)) = self.live.next(&conversation) else { return };
        self.busy.insert(conversation);
        let backend = self.backend.clone();
        self.asking.spawn(async move {
            match ask {
                Ask::Newest(came) => (message, Answer::Newest(backend.newest(message, came).await)),
                Ask::Answered => (message, Answer::Answered(backend.answered(message).await.is_ok())),
            }
        });
    }

    fn on_answer(&mut self, message: &Message, answer: Answer) {
        self.busy.remove(&message.conversation);
        match answer {
            Answer::Newest(Ok(Newest::Number { number, superseded })) => {
                if let Some((live, is_older)) = self.live.numbered(message, number) {
                    superseded.iter().for_each(|payload| live.refuse(payload));
                    if is_older {
                        live.supersede();
                    }
                }
            }
            Answer::Newest(Ok(Newest::Superseded)) => {
                if let Some(live) = self.live.get(message) {
                    live.supersede();
                }
            }
            Answer::Newest(Err(_)) => self.ask_again(),
            Answer::Answered(is_known) => {
                if self.live.told_answered(message, is_known) {
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
