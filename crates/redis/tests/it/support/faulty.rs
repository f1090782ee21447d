//! A process with a Redis of which it can use only a part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use tower_buttress::store::{Fingerprint, TenantHash};
use tower_buttress_redis::RedisModel;
use tower_buttress_redis::backend::{
    Appended, Ask, Backend, BackendError, ClaimArgs, Claimed, Flight, FlightEnd, LogShare, Offered, Process, Settled,
    Subscription, Token, Want,
};

/// A process that hears nothing of flights, or loses what it asks other processes for.
#[derive(Clone)]
pub(crate) struct Faulty {
    pub(crate) model: RedisModel,
    pub(crate) hears: Arc<AtomicBool>,
    /// How many more questions to an owner are lost.
    pub(crate) lost_asks: Arc<AtomicUsize>,
    /// How many more keys are not freed.
    pub(crate) lost_frees: Arc<AtomicUsize>,
    /// What an operation takes on which a claim waits, or which is about tokens of answers.
    pub(crate) takes: Duration,
}

impl Faulty {
    pub(crate) fn new(model: RedisModel, hears: bool, lost_asks: usize) -> Self {
        let (hears, lost_asks) = (Arc::new(hears.into()), Arc::new(lost_asks.into()));
        Self { model, hears, lost_asks, lost_frees: Arc::default(), takes: Duration::ZERO }
    }

    /// One that cannot free this many keys.
    pub(crate) fn losing_frees(model: RedisModel, lost_frees: usize) -> Self {
        Self { lost_frees: Arc::new(lost_frees.into()), ..Self::new(model, true, 0) }
    }
}

impl Backend for Faulty {
    async fn claim(&self, claim: ClaimArgs) -> Result<Claimed, BackendError> {
        sleep(self.takes).await;
        self.model.claim(claim).await
    }

    async fn renew(&self, flight: Flight, lease: Duration) -> Result<bool, BackendError> {
        self.model.renew(flight, lease).await
    }

    async fn outgrow(&self, flight: Flight) -> Result<bool, BackendError> {
        self.model.outgrow(flight).await
    }

    async fn append(
        &self,
        flight: Flight,
        offset: u64,
        bytes: Bytes,
        ttl: Duration,
        share: LogShare,
    ) -> Result<Appended, BackendError> {
        self.model.append(flight, offset, bytes, ttl, share).await
    }

    async fn settle(&self, flight: Flight, outcome: FlightEnd) -> Result<Settled, BackendError> {
        sleep(self.takes).await;
        let is_lost = |left: &AtomicUsize| left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if outcome == FlightEnd::Free && is_lost(&self.lost_frees) {
            return Err(BackendError::Unreachable);
        }
        self.model.settle(flight, outcome).await
    }

    async fn discard(&self, flight: Flight, tenant: Fingerprint) -> Result<bool, BackendError> {
        self.model.discard(flight, tenant).await
    }

    async fn read(&self, flight: Flight, offset: u64, max: usize) -> Result<Bytes, BackendError> {
        sleep(self.takes).await;
        self.model.read(flight, offset, max).await
    }

    async fn holder(&self, key: Fingerprint) -> Result<Option<Token>, BackendError> {
        self.model.holder(key).await
    }

    async fn want(&self, process: Process, want: Want) -> Result<u64, BackendError> {
        self.model.want(process, want).await
    }

    async fn forsake(&self, flight: Flight) -> Result<u64, BackendError> {
        self.model.forsake(flight).await
    }

    async fn listen(&self, flight: Flight) -> Result<Subscription, BackendError> {
        if self.hears.load(SeqCst) { self.model.listen(flight).await } else { Err(BackendError::Unreachable) }
    }

    async fn inbox(&self, process: Process) -> Result<Subscription, BackendError> {
        self.model.inbox(process).await
    }

    async fn mark(&self, flight: Flight, length: u64) -> Result<u64, BackendError> {
        self.model.mark(flight, length).await
    }

    async fn offer(
        &self,
        token: Fingerprint,
        offered: Offered,
        owner: Option<TenantHash>,
        ttl: Duration,
    ) -> Result<(), BackendError> {
        sleep(self.takes).await;
        self.model.offer(token, offered, owner, ttl).await
    }

    async fn offered(&self, token: Fingerprint) -> Result<Option<Offered>, BackendError> {
        self.model.offered(token).await
    }

    async fn withdraw(&self, token: Fingerprint) -> Result<(), BackendError> {
        sleep(self.takes).await;
        self.model.withdraw(token).await
    }

    async fn ask(&self, process: Process, ask: Ask) -> Result<u64, BackendError> {
        if self.lost_asks.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Ok(1);
        }
        self.model.ask(process, ask).await
    }
}
