//! The way of a process to the engine, with the bounds that the client has.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};
use tower_buttress::PeerPause;
use tower_buttress::store::{Fingerprint, TenantHash};
use tower_buttress_redis::RedisModel;
use tower_buttress_redis::backend::{
    Appended, Ask, Backend, BackendError, CircuitBackend, CircuitGroup, CircuitId, ClaimArgs, Claimed,
    ConversationBackend, ConversationShare, Flight, FlightEnd, ForgetBackend, Forgotten, GivenOrder, HeldOrder,
    KeptAnswer, LastGoodBackend, LogShare, MessageId, Newest, Offered, PauseBackend, PauseNews, ProbeLease,
    ProbeVerdict, Process, RateBackend, RateTurn, Settled, Subscription, TakenRate, Token, Votes, Want,
};

use super::history::History;
use super::time;

/// The engine as a process sees it.
#[derive(Clone)]
pub(super) struct Way {
    model: RedisModel,
    inner: Arc<Inner>,
}

struct Inner {
    process: usize,
    history: History,
    rng: Mutex<Rng>,
    /// How many of a hundred operations fail.
    faults: u32,
    has_crashed: AtomicBool,
    /// Requests are sent in the order in which they were made.
    line: tokio::sync::Mutex<()>,
    /// After an operation without an answer none is made for a while.
    shut_until: Mutex<Option<Instant>>,
    cuts: Mutex<u32>,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Lost,
    /// It is done, and the answer is lost.
    Unanswered,
    /// It is done long after there was no answer.
    Late,
    Twice,
}

/// What an operation may take: the default of the client.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// What the steps of the clock add to that.
pub(super) const SLACK: Duration = Duration::from_millis(20);
const SHUT: Duration = Duration::from_secs(1);

// === impl Way ===

impl Way {
    pub(super) fn new(model: &RedisModel, process: usize, history: History, rng: Rng, faults: u32) -> Self {
        let inner = Inner {
            process,
            history,
            rng: Mutex::new(rng),
            faults,
            has_crashed: AtomicBool::new(false),
            line: tokio::sync::Mutex::new(()),
            shut_until: Mutex::new(None),
            cuts: Mutex::new(0),
        };
        Self { model: model.connection(), inner: Arc::new(inner) }
    }

    pub(super) async fn cut(&self, lasts: Duration) {
        *self.inner.cuts.lock().unwrap() += 1;
        self.model.set_connected(false);
        sleep(lasts).await;
        let mut cuts = self.inner.cuts.lock().unwrap();
        *cuts -= 1;
        if *cuts == 0 && !self.has_crashed() {
            self.inner.history.say(format!("process {} is reached again", self.inner.process));
            self.model.set_connected(true);
        }
    }

    pub(super) fn crash(&self) {
        self.inner.has_crashed.store(true, Relaxed);
        self.model.set_connected(false);
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.inner.has_crashed.load(Relaxed)
    }

    /// Whether nothing is asked for a while.
    pub(super) fn is_shut(&self) -> bool {
        self.inner.shut_until.lock().unwrap().is_some_and(|until| Instant::now() < until)
    }

    fn fate(&self) -> (Fate, Duration, Duration) {
        let mut rng = self.inner.rng.lock().unwrap();
        let fate = match rng.u32(..100) {
            drawn if drawn >= self.inner.faults => Fate::Done,
            _ => rng.choice([Fate::Lost, Fate::Unanswered, Fate::Late, Fate::Twice]).unwrap(),
        };
        (fate, time(&mut rng, 0.1, 2.0), time(&mut rng, 0.1, 2.0))
    }

    async fn run<T, F>(&self, name: &str, operation: impl Fn(RedisModel) -> F + Send + Sync) -> Result<T, BackendError>
    where
        T: Debug + Send + 'static,
        F: Future<Output = Result<T, BackendError>> + Send + 'static,
    {
        let Inner { process, history, shut_until, .. } = &*self.inner;
        if self.has_crashed() {
            std::future::pending::<()>().await;
        }
        if self.is_shut() {
            return Err(BackendError::Unreachable);
        }
        let (fate, there, back) = self.fate();
        if fate != Fate::Done && fate != Fate::Twice {
            history.fault(PATIENCE, format!("process {process}: {name} is {fate:?}"));
        }
        if fate == Fate::Late {
            let late = operation(self.model.clone());
            let (way, name) = (self.clone(), name.to_owned());
            tokio::spawn(async move {
                sleep(PATIENCE + 150 * there).await;
                if !way.has_crashed() {
                    let Inner { process, history, .. } = &*way.inner;
                    history.fault(Duration::ZERO, format!("process {process}: {name} is done late: {:?}", late.await));
                }
            });
        }
        let answer = timeout(PATIENCE, async {
            let turn = self.inner.line.lock().await;
            sleep(there).await;
            drop(turn);
            let answer = match fate {
                Fate::Lost | Fate::Late => std::future::pending().await,
                Fate::Twice => {
                    let first = operation(self.model.clone()).await;
                    history.say(format!("process {process}: {name} for the first time: {first:?}"));
                    operation(self.model.clone()).await
                }
                Fate::Done | Fate::Unanswered => operation(self.model.clone()).await,
            };
            history.say(format!("process {process}: {name}: {answer:?}"));
            // Nothing comes from an engine that cannot be reached.
            if matches!(answer, Err(BackendError::Unreachable)) || fate == Fate::Unanswered || self.has_crashed() {
                std::future::pending::<()>().await;
            }
            sleep(back).await;
            answer
        });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => {
                if !self.has_crashed() && fate == Fate::Done {
                    // The engine is away: for some time no call waits for it.
                    *shut_until.lock().unwrap() = Some(Instant::now() + SHUT);
                    history.fault(SHUT, format!("process {process} asks nothing for a while"));
                }
                Err(BackendError::Unreachable)
            }
        }
    }
}

impl Backend for Way {
    async fn claim(&self, claim: ClaimArgs) -> Result<Claimed, BackendError> {
        self.run("claim", |model| async move { model.claim(claim).await }).await
    }

    async fn renew(&self, flight: Flight, lease: Duration) -> Result<bool, BackendError> {
        self.run("renew", |model| async move { model.renew(flight, lease).await }).await
    }

    async fn outgrow(&self, flight: Flight) -> Result<bool, BackendError> {
        self.run("outgrow", |model| async move { model.outgrow(flight).await }).await
    }

    async fn append(
        &self,
        flight: Flight,
        offset: u64,
        bytes: Bytes,
        ttl: Duration,
        share: LogShare,
    ) -> Result<Appended, BackendError> {
        let append = |model: RedisModel| {
            let bytes = bytes.clone();
            async move { model.append(flight, offset, bytes, ttl, share).await }
        };
        self.run("append", append).await
    }

    async fn settle(&self, flight: Flight, outcome: FlightEnd) -> Result<Settled, BackendError> {
        self.run("settle", |model| async move { model.settle(flight, outcome).await }).await
    }

    async fn discard(&self, flight: Flight, tenant: Fingerprint) -> Result<bool, BackendError> {
        self.run("discard", |model| async move { model.discard(flight, tenant).await }).await
    }

    async fn read(&self, flight: Flight, offset: u64, max: usize) -> Result<Bytes, BackendError> {
        self.run("read", |model| async move { model.read(flight, offset, max).await }).await
    }

    async fn holder(&self, key: Fingerprint) -> Result<Option<Token>, BackendError> {
        self.run("holder", |model| async move { model.holder(key).await }).await
    }

    async fn want(&self, process: Process, want: Want) -> Result<u64, BackendError> {
        self.run("want", |model| async move { model.want(process, want).await }).await
    }

    async fn forsake(&self, flight: Flight) -> Result<u64, BackendError> {
        self.run("forsake", |model| async move { model.forsake(flight).await }).await
    }

    async fn mark(&self, flight: Flight, length: u64) -> Result<u64, BackendError> {
        self.run("mark", |model| async move { model.mark(flight, length).await }).await
    }

    async fn offer(
        &self,
        token: Fingerprint,
        offered: Offered,
        owner: Option<TenantHash>,
        ttl: Duration,
    ) -> Result<(), BackendError> {
        self.run("offer", |model| async move { model.offer(token, offered, owner, ttl).await }).await
    }

    async fn offered(&self, token: Fingerprint) -> Result<Option<Offered>, BackendError> {
        self.run("offered", |model| async move { model.offered(token).await }).await
    }

    async fn withdraw(&self, token: Fingerprint) -> Result<(), BackendError> {
        self.run("withdraw", |model| async move { model.withdraw(token).await }).await
    }

    async fn ask(&self, process: Process, ask: Ask) -> Result<u64, BackendError> {
        self.run("ask", |model| async move { model.ask(process, ask).await }).await
    }

    async fn listen(&self, flight: Flight) -> Result<Subscription, BackendError> {
        self.run("listen", |model| async move { model.listen(flight).await }).await
    }

    async fn inbox(&self, process: Process) -> Result<Subscription, BackendError> {
        self.run("inbox", |model| async move { model.inbox(process).await }).await
    }
}

impl CircuitBackend for Way {
    async fn look(&self, circuit: CircuitId, process: Process, active: Duration) -> Result<Votes, BackendError> {
        self.run("look", |model| async move { model.look(circuit, process, active).await }).await
    }

    async fn vote(
        &self,
        circuit: CircuitId,
        process: Process,
        open_for: Duration,
        active: Duration,
    ) -> Result<Votes, BackendError> {
        self.run("vote", |model| async move { model.vote(circuit, process, open_for, active).await }).await
    }

    async fn probe(&self, circuit: CircuitId, token: Token, lease: Duration) -> Result<ProbeLease, BackendError> {
        self.run("probe", |model| async move { model.probe(circuit, token, lease).await }).await
    }

    async fn verdict(
        &self,
        circuit: CircuitId,
        token: Token,
        process: Process,
        verdict: ProbeVerdict,
        active: Duration,
    ) -> Result<bool, BackendError> {
        let verdict = |model: RedisModel| async move { model.verdict(circuit, token, process, verdict, active).await };
        self.run("verdict", verdict).await
    }

    async fn order(&self, circuit: CircuitId, process: Process, order: GivenOrder) -> Result<HeldOrder, BackendError> {
        self.run("order", |model| async move { model.order(circuit, process, order).await }).await
    }

    async fn order_again(
        &self,
        circuit: CircuitId,
        process: Process,
        order: HeldOrder,
    ) -> Result<HeldOrder, BackendError> {
        self.run("order again", |model| async move { model.order_again(circuit, process, order).await }).await
    }

    async fn ordered(&self, circuit: CircuitId) -> Result<Option<HeldOrder>, BackendError> {
        self.run("ordered", |model| async move { model.ordered(circuit).await }).await
    }

    async fn news(&self, group: CircuitGroup) -> Result<Subscription, BackendError> {
        self.run("news", |model| async move { model.news(group).await }).await
    }
}

impl PauseBackend for Way {
    async fn pause(&self, pause: PauseNews) -> Result<bool, BackendError> {
        self.run("pause", |model| async move { model.pause(pause).await }).await
    }

    async fn paused(&self, limit: Fingerprint) -> Result<PeerPause, BackendError> {
        self.run("paused", |model| async move { model.paused(limit).await }).await
    }

    async fn pause_news(&self) -> Result<Subscription, BackendError> {
        self.run("pause news", |model| async move { model.pause_news().await }).await
    }
}

impl RateBackend for Way {
    async fn reserve(
        &self,
        limit: Fingerprint,
        request: Token,
        costs: Vec<TakenRate>,
        pause: Duration,
        max_wait: Duration,
    ) -> Result<RateTurn, BackendError> {
        let reserve = |model: RedisModel| {
            let costs = costs.clone();
            async move { model.reserve(limit, request, costs, pause, max_wait).await }
        };
        self.run("reserve", reserve).await
    }

    async fn refund(
        &self,
        limit: Fingerprint,
        request: Token,
        changes: Vec<(String, i64)>,
    ) -> Result<(), BackendError> {
        let refund = |model: RedisModel| {
            let changes = changes.clone();
            async move { model.refund(limit, request, changes).await }
        };
        self.run("refund", refund).await
    }

    async fn beat(&self, process: Process, ttl: Duration) -> Result<u32, BackendError> {
        self.run("beat", |model| async move { model.beat(process, ttl).await }).await
    }
}

impl ConversationBackend for Way {
    async fn newest(
        &self,
        message: MessageId,
        came: Instant,
        known: u64,
        share: ConversationShare,
    ) -> Result<Newest, BackendError> {
        self.run("newest", |model| async move { model.newest(message, came, known, share).await }).await
    }

    async fn answered(&self, message: MessageId, share: ConversationShare) -> Result<bool, BackendError> {
        self.run("answered", |model| async move { model.answered(message, share).await }).await
    }

    async fn conversation_news(&self) -> Result<Subscription, BackendError> {
        self.run("conversation news", |model| async move { model.conversation_news().await }).await
    }
}

impl LastGoodBackend for Way {
    async fn remember(&self, answer: KeptAnswer) -> Result<bool, BackendError> {
        let remember = |model: RedisModel| {
            let answer = answer.clone();
            async move { model.remember(answer).await }
        };
        self.run("remember", remember).await
    }

    async fn recall(&self, exact: Fingerprint) -> Result<Option<(Bytes, Duration)>, BackendError> {
        self.run("recall", |model| async move { model.recall(exact).await }).await
    }

    async fn last_of(&self, normal: Fingerprint) -> Result<Option<Fingerprint>, BackendError> {
        self.run("last of", |model| async move { model.last_of(normal).await }).await
    }
}

impl ForgetBackend for Way {
    async fn publish_forget(&self, tenant: &str) -> Result<u64, BackendError> {
        let publish = |model: RedisModel| {
            let tenant = tenant.to_owned();
            async move { model.publish_forget(&tenant).await }
        };
        self.run("publish forget", publish).await
    }

    async fn forget_some(&self, owner: Option<TenantHash>, place: Vec<u8>) -> Result<Forgotten, BackendError> {
        let forget = |model: RedisModel| {
            let place = place.clone();
            async move { model.forget_some(owner, place).await }
        };
        self.run("forget", forget).await
    }

    async fn forgotten(&self) -> Result<Subscription, BackendError> {
        self.run("forgotten", |model| async move { model.forgotten().await }).await
    }
}
