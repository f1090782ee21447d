//! What a claim holds in this process while Redis decides who has the key.

use std::sync::Arc;
use std::time::Duration;

use tower_buttress::error::LeaderGone;
use tower_buttress::store::{Claim, ClaimRequest, MemoryLease, Recorder};

use super::follower::Follower;
use super::inner::Inner;
use super::leader::{Leader, Mailbox};
use super::lease::RedisLease;
use super::replay::Replayed;
use crate::backend::{Backend, Flight, FlightEnd, Process};

/// What a claim has taken: the key in this process, the answer's log, and perhaps the lease in Redis. Dropped before
/// the decision, it returns all of it.
pub(super) struct TakenClaim<B: Backend> {
    pub(super) inner: Arc<Inner<B>>,
    pub(super) flight: Flight,
    pub(super) memory: Option<MemoryLease>,
    pub(super) recorder: Option<Recorder>,
    /// Opened before the claim: right after it another process may ask for the answer.
    pub(super) mailbox: Option<Mailbox<B>>,
    /// Whether Redis may have granted the lease, so that it must be freed.
    pub(super) is_asked: bool,
}

// === impl Taken ===

impl<B: Backend> TakenClaim<B> {
    fn parts(&mut self) -> Option<(MemoryLease, Recorder)> {
        self.is_asked = false;
        self.memory.take().zip(self.recorder.take())
    }

    pub(super) fn lead(mut self, request: &ClaimRequest) -> Claim<RedisLease> {
        let (Some((memory, recorder)), Some(mailbox)) = (self.parts(), self.mailbox.take()) else {
            return Claim::full(None);
        };
        let updates = Leader::spawn(&self.inner, self.flight, request, recorder.log(), mailbox);
        let lease = RedisLease::new(memory, self.flight.key, updates, self.inner.settling.clone());
        Claim::lead(lease, recorder)
    }

    pub(super) fn follow(
        mut self,
        request: &ClaimRequest,
        flight: Flight,
        owner: Process,
        age: Duration,
    ) -> Claim<RedisLease> {
        let Some((memory, recorder)) = self.parts() else { return Claim::full(None) };
        let log = recorder.log();
        let backend = self.inner.backend.clone();
        Follower::spawn(backend, flight, *request.payload(), owner, age, recorder, memory, self.inner.settings.lease);
        Claim::Follow(log)
    }

    pub(super) fn replay(
        mut self,
        request: &ClaimRequest,
        replayed: Replayed,
        age: Duration,
        ttl: Duration,
    ) -> Claim<RedisLease> {
        let Some((memory, recorder)) = self.parts() else { return Claim::full(None) };
        let log = recorder.log();
        let undecided = self.inner.settling.begin(self.flight.key);
        replayed.feed(self.inner.backend.clone(), recorder, memory, undecided, age, ttl, *request.tenant());
        Claim::Replay(log)
    }

    /// The answer is in flight, and closed to new followers.
    pub(super) fn refuse_to_join(mut self) -> Claim<RedisLease> {
        let Some((memory, recorder)) = self.parts() else { return Claim::full(None) };
        drop(memory);
        let log = recorder.log();
        recorder.fail("the answer is too long to join");
        Claim::Follow(log)
    }
}

impl<B: Backend> Drop for TakenClaim<B> {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            drop(self.memory.take());
            // Callers of this process that joined meanwhile claim the key again.
            recorder.fail(LeaderGone::new());
        }
        if !self.is_asked {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (backend, flight) = (self.inner.backend.clone(), self.flight);
            runtime.spawn(async move { backend.settle(flight, FlightEnd::Free).await });
        }
    }
}
