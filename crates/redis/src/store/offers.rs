//! The places of resumable answers, for callers that come back in another process.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_buttress::error::{BoxError, LeaderGone};
use tower_buttress::store::{
    AnswerFuture, AnswerOffer, AnswerOffers, Fingerprint, OfferedAnswer, Recorder, SharedAnswers, TenantHash,
};

use super::follower::Follower;
use super::inner::Inner;
use super::updates::Update;
use crate::backend::{Ask, Backend, Flight, Offered, Process};

/// Sends the layer's tokens of one answer to the task of its call.
pub(super) struct LeaseOffers(pub(super) mpsc::UnboundedSender<Update>);

/// The answers of other processes.
pub(super) struct AnswersElsewhere<B>(pub(super) Arc<Inner<B>>);

/// The tokens of an answer, stored in Redis by the task of its call.
pub(super) struct Offers {
    offers: Vec<AnswerOffer>,
    owner: Option<TenantHash>,
    /// When to store all of them again: Redis may have restarted, and each expires.
    send_at: Instant,
    /// When the answer ended.
    ended: Option<Instant>,
    /// Withdrawn tokens that Redis did not take, and when each expires.
    withdrawn: Vec<(Fingerprint, Instant)>,
}

/// The wait before a failed store is repeated.
const RETRY: Duration = Duration::from_secs(3);

/// After a restart of Redis, processes store their answers within this time, not all at once.
const SPREAD: Duration = Duration::from_secs(1);

/// The waits of a stop for the answer's process to withdraw it.
const STOP_WAITS: [Duration; 6] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(75),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

// === impl LeaseOffers ===

impl AnswerOffers for LeaseOffers {
    fn offer(&self, offer: AnswerOffer) {
        let _ = self.0.send(Update::Offer(Box::new(offer)));
    }

    fn ended(&self) {
        let _ = self.0.send(Update::Ended);
    }

    fn withdraw(&self) {
        let _ = self.0.send(Update::Withdraw);
    }
}

// === impl Offers ===

impl Offers {
    pub(super) fn new(owner: Option<TenantHash>) -> Self {
        Self { offers: Vec::new(), owner, send_at: Instant::now(), ended: None, withdrawn: Vec::new() }
    }

    /// Whether anything must be stored when it is [due](Self::due).
    pub(super) fn is_open(&self) -> bool {
        !self.offers.is_empty() || !self.withdrawn.is_empty()
    }

    pub(super) fn due(&self) -> Instant {
        self.ends().map_or(self.send_at, |ends| ends.min(self.send_at))
    }

    /// Until when the answer can be read, if it has ended.
    fn ends(&self) -> Option<Instant> {
        let window = self.offers.iter().map(|offer| offer.window).max()?;
        Some(self.ended? + window)
    }

    pub(super) async fn add<B: Backend>(&mut self, offer: AnswerOffer, backend: &B, call: OfferedCall) {
        let window = offer.window;
        self.offers.push(offer);
        let is_sent = match self.offers.last() {
            Some(offer) => self.send(offer, backend.clone(), call).await,
            None => true,
        };
        let again = Instant::now() + if is_sent { window / 3 } else { RETRY };
        self.send_at = if self.offers.len() == 1 { again } else { self.send_at.min(again) };
    }

    pub(super) async fn ended<B: Backend>(&mut self, backend: &B, call: OfferedCall) {
        self.ended = Some(Instant::now());
        self.send_all(backend, call).await;
    }

    /// Acts at the time of [`due`](Self::due).
    pub(super) async fn on_due<B: Backend>(&mut self, backend: &B, call: OfferedCall) {
        if self.ends().is_some_and(|ends| ends <= Instant::now()) {
            self.offers.clear();
        }
        self.send_all(backend, call).await;
        self.withdraw_again(backend).await;
    }

    /// Redis may have lost all of them.
    pub(super) fn send_soon(&mut self) {
        self.send_at = self.send_at.min(Instant::now() + SPREAD.mul_f64(fastrand::f64()));
    }

    /// Callers may no longer come back.
    pub(super) async fn withdraw<B: Backend>(&mut self, backend: &B) {
        let now = Instant::now();
        self.withdrawn.extend(self.offers.drain(..).map(|offer| (offer.token, now + offer.window.max(RETRY * 3))));
        self.withdraw_again(backend).await;
    }

    async fn withdraw_again<B: Backend>(&mut self, backend: &B) {
        let now = Instant::now();
        self.withdrawn.retain(|(_, forgotten)| *forgotten > now);
        let mut withdrawing = JoinSet::new();
        for (token, _) in self.withdrawn.iter().copied() {
            let backend = backend.clone();
            withdrawing.spawn(async move { (token, backend.withdraw(token).await) });
        }
        while let Some(withdrawn) = withdrawing.join_next().await {
            if let Ok((token, Ok(()))) = withdrawn {
                self.withdrawn.retain(|(other, _)| *other != token);
            }
        }
        if !self.withdrawn.is_empty() {
            self.send_at = Instant::now() + RETRY;
        }
    }

    /// Stops storing them: they expire in Redis.
    pub(super) fn close(&mut self) {
        self.offers.clear();
    }

    /// A caller of another process has stopped the call.
    pub(super) fn stop(&self) {
        if let Some(offer) = self.offers.first() {
            (offer.on_stop)();
        }
    }

    async fn send_all<B: Backend>(&mut self, backend: &B, call: OfferedCall) {
        let (mut is_sent, mut every) = (true, RETRY);
        // Together: one by one on a slow Redis would hold up the answer for a second.
        let mut sending = JoinSet::new();
        for offer in &self.offers {
            every = every.max(offer.window / 3);
            sending.spawn(self.send(offer, backend.clone(), call));
        }
        while let Some(sent) = sending.join_next().await {
            is_sent &= sent.unwrap_or(false);
        }
        self.send_at = Instant::now() + if is_sent { every } else { RETRY };
    }

    /// Returns whether Redis has it.
    fn send<B: Backend>(
        &self,
        offer: &AnswerOffer,
        backend: B,
        call: OfferedCall,
    ) -> impl Future<Output = bool> + use<B> {
        let now = Instant::now();
        // During the call it outlives the next repetition.
        let ttl = match self.ended {
            Some(ended) => (ended + offer.window).saturating_duration_since(now),
            None => offer.window.max(RETRY * 3),
        };
        let OfferedCall { flight, payload, process, claimed } = call;
        let age = now.saturating_duration_since(claimed);
        let has_ended = self.ended.is_some();
        let offered = Offered { flight, payload, owner: process, answer: offer.answer, age, has_ended };
        let (token, owner) = (offer.token, self.owner);
        async move { ttl.is_zero() || backend.offer(token, offered, owner, ttl).await.is_ok() }
    }
}

/// The call of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfferedCall {
    pub(super) flight: Flight,
    pub(super) payload: Fingerprint,
    pub(super) process: Process,
    pub(super) claimed: Instant,
}

// === impl AnswersElsewhere ===

impl<B: Backend> SharedAnswers for AnswersElsewhere<B> {
    fn find(&self, token: Fingerprint) -> AnswerFuture<Result<Option<OfferedAnswer>, BoxError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let offered = inner.backend.offered(token).await?;
            // An answer of this process that the layer no longer knows is about to be withdrawn.
            Ok(offered.filter(|offered| offered.owner != inner.process).map(|offered| offered.answer))
        })
    }

    fn feed(&self, token: Fingerprint, recorder: Recorder) {
        let inner = self.0.clone();
        tokio::spawn(async move {
            match inner.backend.offered(token).await {
                Ok(Some(offered)) => {
                    Follower::return_to(inner.backend.clone(), offered, recorder, inner.settings.lease);
                }
                Ok(None) => recorder.fail(LeaderGone::new()),
                Err(_) => recorder.fail(LeaderGone::unreachable()),
            }
        });
    }

    fn stop(&self, token: Fingerprint) -> AnswerFuture<Result<(), BoxError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            // The answer's process withdraws its tokens when it receives this. The message may be lost, so it is
            // repeated.
            for wait in STOP_WAITS {
                let Some(offered) = inner.backend.offered(token).await? else { return Ok(()) };
                inner.backend.ask(offered.owner, Ask::Stop(offered.flight)).await?;
                sleep(wait).await;
            }
            match inner.backend.offered(token).await? {
                Some(_) => Err("the process that makes the call does not answer".into()),
                None => Ok(()),
            }
        })
    }
}
