//! A process whose Redis takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_buttress::PeerPause;
use tower_buttress::store::Fingerprint;
use tower_buttress_redis::RedisModel;
use tower_buttress_redis::backend::{
    BackendError, CircuitBackend, CircuitGroup, CircuitId, ConversationBackend, ConversationShare, GivenOrder,
    HeldOrder, MessageId, Newest, PauseBackend, PauseNews, ProbeLease, ProbeVerdict, Process, RateBackend, RateTurn,
    Subscription, TakenRate, Token, Votes,
};

#[derive(Clone)]
pub(crate) struct Slow {
    pub(crate) model: RedisModel,
    /// What each operation takes.
    pub(crate) takes: Duration,
    /// What a subscription does.
    pub(crate) subscribes_in: Duration,
    /// Whether the answers to requests for a probe are lost.
    pub(crate) loses_leases: Arc<AtomicBool>,
    /// Whether it is lost that messages were answered.
    pub(crate) loses_answered: Arc<AtomicBool>,
}

impl Slow {
    pub(crate) fn new(model: RedisModel, takes: Duration, subscribes_in: Duration) -> Self {
        Self { model, takes, subscribes_in, loses_leases: Arc::default(), loses_answered: Arc::default() }
    }
}

impl CircuitBackend for Slow {
    async fn look(&self, circuit: CircuitId, process: Process, active: Duration) -> Result<Votes, BackendError> {
        sleep(self.takes).await;
        self.model.look(circuit, process, active).await
    }

    async fn vote(
        &self,
        circuit: CircuitId,
        process: Process,
        open_for: Duration,
        active: Duration,
    ) -> Result<Votes, BackendError> {
        sleep(self.takes).await;
        self.model.vote(circuit, process, open_for, active).await
    }

    async fn probe(&self, circuit: CircuitId, token: Token, lease: Duration) -> Result<ProbeLease, BackendError> {
        sleep(self.takes).await;
        let lease = self.model.probe(circuit, token, lease).await;
        if self.loses_leases.load(SeqCst) { Err(BackendError::Unreachable) } else { lease }
    }

    async fn verdict(
        &self,
        circuit: CircuitId,
        token: Token,
        process: Process,
        verdict: ProbeVerdict,
        active: Duration,
    ) -> Result<bool, BackendError> {
        sleep(self.takes).await;
        self.model.verdict(circuit, token, process, verdict, active).await
    }

    async fn order(&self, circuit: CircuitId, process: Process, order: GivenOrder) -> Result<HeldOrder, BackendError> {
        sleep(self.takes).await;
        self.model.order(circuit, process, order).await
    }

    async fn order_again(
        &self,
        circuit: CircuitId,
        process: Process,
        order: HeldOrder,
    ) -> Result<HeldOrder, BackendError> {
        sleep(self.takes).await;
        self.model.order_again(circuit, process, order).await
    }

    async fn ordered(&self, circuit: CircuitId) -> Result<Option<HeldOrder>, BackendError> {
        sleep(self.takes).await;
        self.model.ordered(circuit).await
    }

    async fn news(&self, group: CircuitGroup) -> Result<Subscription, BackendError> {
        sleep(self.subscribes_in).await;
        self.model.news(group).await
    }
}

impl ConversationBackend for Slow {
    async fn newest(
        &self,
        message: MessageId,
        came: Instant,
        known: u64,
        share: ConversationShare,
    ) -> Result<Newest, BackendError> {
        sleep(self.takes).await;
        self.model.newest(message, came, known, share).await
    }

    async fn answered(&self, message: MessageId, share: ConversationShare) -> Result<bool, BackendError> {
        sleep(self.takes).await;
        if self.loses_answered.load(SeqCst) {
            return Err(BackendError::Unreachable);
        }
        self.model.answered(message, share).await
    }

    async fn conversation_news(&self) -> Result<Subscription, BackendError> {
        sleep(self.subscribes_in).await;
        self.model.conversation_news().await
    }
}

impl PauseBackend for Slow {
    async fn pause(&self, pause: PauseNews) -> Result<bool, BackendError> {
        sleep(self.takes).await;
        self.model.pause(pause).await
    }

    async fn paused(&self, limit: Fingerprint) -> Result<PeerPause, BackendError> {
        sleep(self.takes).await;
        self.model.paused(limit).await
    }

    async fn pause_news(&self) -> Result<Subscription, BackendError> {
        sleep(self.subscribes_in).await;
        self.model.pause_news().await
    }
}

impl RateBackend for Slow {
    async fn reserve(
        &self,
        limit: Fingerprint,
        request: Token,
        costs: Vec<TakenRate>,
        pause: Duration,
        max_wait: Duration,
    ) -> Result<RateTurn, BackendError> {
        sleep(self.takes).await;
        self.model.reserve(limit, request, costs, pause, max_wait).await
    }

    async fn refund(
        &self,
        limit: Fingerprint,
        request: Token,
        changes: Vec<(String, i64)>,
    ) -> Result<(), BackendError> {
        sleep(self.takes).await;
        self.model.refund(limit, request, changes).await
    }

    async fn beat(&self, process: Process, ttl: Duration) -> Result<u32, BackendError> {
        sleep(self.takes).await;
        self.model.beat(process, ttl).await
    }
}
