//! A process that can ask Redis, and cannot subscribe to anything.

use std::time::Duration;

use bytes::Bytes;
use tower_buttress::store::Fingerprint;
use tower_buttress_redis::Model;
use tower_buttress_redis::backend::{
    Appended, Backend, BackendError, ClaimArgs, Claimed, Flight, Outcome, Process, Settled, Subscription, Token, Want,
};

#[derive(Clone)]
pub(crate) struct Deaf(pub(crate) Model);

impl Backend for Deaf {
    async fn claim(&self, claim: ClaimArgs) -> Result<Claimed, BackendError> {
        self.0.claim(claim).await
    }

    async fn renew(&self, flight: Flight, lease: Duration) -> Result<bool, BackendError> {
        self.0.renew(flight, lease).await
    }

    async fn outgrow(&self, flight: Flight) -> Result<bool, BackendError> {
        self.0.outgrow(flight).await
    }

    async fn append(&self, flight: Flight, offset: u64, bytes: Bytes, ttl: Duration) -> Result<Appended, BackendError> {
        self.0.append(flight, offset, bytes, ttl).await
    }

    async fn settle(&self, flight: Flight, outcome: Outcome) -> Result<Settled, BackendError> {
        self.0.settle(flight, outcome).await
    }

    async fn discard(&self, flight: Flight) -> Result<bool, BackendError> {
        self.0.discard(flight).await
    }

    async fn read(&self, flight: Flight, offset: u64, max: usize) -> Result<Bytes, BackendError> {
        self.0.read(flight, offset, max).await
    }

    async fn holder(&self, key: Fingerprint) -> Result<Option<Token>, BackendError> {
        self.0.holder(key).await
    }

    async fn want(&self, process: Process, want: Want) -> Result<u64, BackendError> {
        self.0.want(process, want).await
    }

    async fn forsake(&self, flight: Flight) -> Result<u64, BackendError> {
        self.0.forsake(flight).await
    }

    async fn listen(&self, _: Flight) -> Result<Subscription, BackendError> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Err(BackendError::Unreachable)
    }

    async fn inbox(&self, _: Process) -> Result<Subscription, BackendError> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Err(BackendError::Unreachable)
    }
}
