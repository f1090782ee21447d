//! The task of a call of this process: it holds the lease, and shares the answer on request.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};
use tower_buttress::store::{ClaimRequest, Fingerprint, Lease, MemoryLease, ResponseLog, Retention, TenantHash};

use super::inner::{Inner, Reachable, StoreSettings};
use super::offers::{OfferedCall, Offers};
use super::relay::{Relay, SendResult};
use super::updates::{Keep, Update};
use crate::backend::{
    Backend, BackendError, ClaimArgs, Claimed, Flight, FlightEnd, Process, STRANGERS, Settled, Token,
};

/// Receives messages for the task of a call. Dropping it makes the task unreachable.
pub(super) struct Mailbox<B: Backend> {
    sender: mpsc::UnboundedSender<Update>,
    updates: mpsc::UnboundedReceiver<Update>,
    wants: mpsc::Receiver<()>,
    registration: Registration<B>,
}

pub(super) struct Leader<B: Backend> {
    backend: B,
    store: Weak<Inner<B>>,
    settings: StoreSettings,
    process: Process,
    flight: Flight,
    payload: Fingerprint,
    /// Whose share the answer takes: its tenant's, or the common one of tenants that any caller can invent.
    share: Fingerprint,
    tenant: Fingerprint,
    owner: Option<TenantHash>,
    log: ResponseLog,
    relay: Relay,
    offers: Offers,
    claimed: Instant,
    has_key: bool,
    /// The call is over, but Redis did not take the command to free its key.
    owes_free: bool,
    /// Whether another process has, or had, the key.
    is_lost: bool,
}

/// How often an answer is written from its beginning if Redis loses it meanwhile.
const MAX_WRITES: u32 = 3;

/// How often the task checks a relay that has nothing to send, or could not: a sign of life may be due.
const TICK: Duration = Duration::from_millis(250);

/// The waits before further attempts to free a key.
const FREE_AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

// === impl Mailbox ===

impl<B: Backend> Mailbox<B> {
    pub(super) fn open(store: &Arc<Inner<B>>, token: Token) -> Self {
        let (sender, updates) = mpsc::unbounded_channel();
        let (wanted, wants) = mpsc::channel(1);
        store.leaders().insert(token, Reachable { wants: wanted, updates: sender.downgrade() });
        Self { sender, updates, wants, registration: Registration { store: Arc::downgrade(store), token } }
    }
}

// === impl Leader ===

impl<B: Backend> Leader<B> {
    pub(super) fn spawn(
        store: &Arc<Inner<B>>,
        flight: Flight,
        request: &ClaimRequest,
        log: ResponseLog,
        mailbox: Mailbox<B>,
    ) -> mpsc::UnboundedSender<Update> {
        let Mailbox { sender, updates, wants, registration } = mailbox;
        // Only the lease holds the sender: a copy in the task would hide that the lease is gone.
        let (payload, tenant) = (*request.payload(), *request.tenant());
        let share = if request.owner().is_some() { tenant } else { STRANGERS };
        let relay = Relay::new(flight, payload, share, log.clone(), store.settings);
        let leader = Self {
            backend: store.backend.clone(),
            store: Arc::downgrade(store),
            settings: store.settings,
            process: store.process,
            flight,
            payload,
            share,
            tenant,
            owner: request.owner(),
            log,
            relay,
            offers: Offers::new(request.owner()),
            claimed: Instant::now(),
            has_key: true,
            owes_free: false,
            is_lost: false,
        };
        tokio::spawn(async move {
            let backend = leader.backend.clone();
            let owes_free = leader.run(updates, wants).await;
            // From now on this process reports that it does not have the answer.
            drop(registration);
            if owes_free {
                free_again(&backend, flight).await;
            }
        });
        sender
    }

    /// Returns whether the key must still be freed.
    async fn run(mut self, mut updates: mpsc::UnboundedReceiver<Update>, mut wants: mpsc::Receiver<()>) -> bool {
        let every = self.settings.lease / 3;
        let mut renew = interval_at(Instant::now() + every, every);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Until the layer drops the lease and the answer's offers.
        let mut has_updates = true;
        while has_updates || self.offers.is_open() || self.relay.is_sharing() {
            let update = tokio::select! {
                biased;
                update = updates.recv(), if has_updates => update,
                Some(()) = wants.recv() => {
                    if !self.relay.begin() {
                        self.outgrown().await;
                    }
                    continue;
                }
                _ = renew.tick(), if self.has_key => { self.renew().await; continue }
                () = sleep_until(self.offers.due()), if self.offers.is_open() => {
                    let call = self.call();
                    self.offers.on_due(&self.backend, call).await;
                    continue;
                }
                () = self.relay.gather(), if self.relay.is_sharing() => { self.share().await; continue }
                _ = tick.tick(), if self.relay.is_sharing() => { self.share().await; continue }
            };
            match update {
                Some(Update::Accepted) => {
                    self.share = self.tenant;
                    self.relay.set_tenant(self.tenant);
                }
                Some(Update::Free) => self.free().await,
                Some(Update::Keep(keep)) => {
                    let Keep { memory, retention, undecided } = *keep;
                    self.keep(memory, retention).await;
                    drop(undecided);
                    // A kept key is not freed.
                    self.has_key = false;
                }
                Some(Update::Over) => self.free().await,
                Some(Update::Offer(offer)) => {
                    let call = self.call();
                    self.offers.add(*offer, &self.backend, call).await;
                }
                Some(Update::Ended) => {
                    let call = self.call();
                    self.offers.ended(&self.backend, call).await;
                }
                Some(Update::Withdraw) => self.offers.withdraw(&self.backend).await,
                Some(Update::OfferAgain) => self.offers.send_soon(),
                Some(Update::Stop) => self.offers.stop(),
                None => {
                    has_updates = false;
                    self.offers.close();
                    self.free().await;
                }
            }
        }
        self.owes_free
    }

    fn call(&self) -> OfferedCall {
        OfferedCall { flight: self.flight, payload: self.payload, process: self.process, claimed: self.claimed }
    }

    async fn renew(&mut self) {
        if self.is_lost || self.backend.renew(self.flight, self.settings.lease).await != Ok(false) {
            return;
        }
        // Redis may have lost it: it restarted, or was unreachable when the call was made.
        let claim = ClaimArgs {
            key: self.flight.key,
            payload: self.payload,
            token: self.flight.token,
            owner: self.process,
            lease: self.settings.lease,
        };
        if let Ok(Claimed::Taken { .. }) = self.backend.claim(claim).await {
            self.is_lost = true;
        }
        self.offers.send_soon();
    }

    async fn free(&mut self) {
        if std::mem::replace(&mut self.has_key, false) && !self.is_lost {
            // If all attempts fail, the lease expires.
            self.owes_free = self.backend.settle(self.flight, FlightEnd::Free).await.is_err();
        }
    }

    /// Sends new bytes to those who want them.
    async fn share(&mut self) {
        // First: a process that reads of the failure claims the key at once.
        if self.log.has_failed() {
            self.free().await;
        }
        match self.relay.send(&self.backend).await {
            SendResult::On => {}
            SendResult::Outgrown => self.outgrown().await,
            SendResult::Refused => {
                // Other processes cannot get this answer and must make their own calls.
                self.free().await;
                let _ = self.backend.forsake(self.flight).await;
                self.bypassed("the backend has no room for the answer, which is not shared");
            }
        }
    }

    /// Other processes must not wait for this answer: their claims learn that the flight is closed.
    async fn outgrown(&self) {
        let _ = self.backend.outgrow(self.flight).await;
        let _ = self.backend.forsake(self.flight).await;
    }

    fn bypassed(&self, reason: &'static str) {
        if let Some(store) = self.store.upgrade() {
            store.bypassed(reason);
        }
    }

    /// Writes the whole answer, as a replay for every process.
    async fn keep(&mut self, memory: MemoryLease, retention: Retention) {
        let settled = if self.is_lost { Ok(Settled::Lost) } else { self.settle(&retention).await };
        match settled {
            // Not guaranteed: the local copy may be evicted, because Redis has it.
            Ok(Settled::Done) => memory.keep(Retention::new(retention.now(), retention.window())),
            // Another process has the key: its answer counts.
            Ok(Settled::Lost) => drop(memory),
            Ok(Settled::NotWhole | Settled::NoRoom) | Err(_) => {
                memory.keep(retention);
                self.owes_free = self.backend.settle(self.flight, FlightEnd::Free).await.is_err();
                self.bypassed(match settled {
                    Ok(Settled::NoRoom) => {
                        "the tenant's quota in the backend is full: only this process keeps the answer"
                    }
                    _ => "the backend could not keep the answer: only this process does",
                });
            }
        }
        // Followers that have not read its end will not find it in Redis: it was too long, or was lost.
        if !matches!(settled, Ok(Settled::Done)) {
            let _ = self.backend.forsake(self.flight).await;
        }
    }

    async fn settle(&mut self, retention: &Retention) -> Result<Settled, BackendError> {
        let mut settled = Settled::NotWhole;
        for _ in 0..MAX_WRITES {
            let length = self.relay.finish(&self.backend).await?;
            let passed = Instant::now().into_std().saturating_duration_since(retention.now());
            let window = retention.window().saturating_sub(passed);
            let (tenant, tenant_bytes, owner) = (self.share, self.settings.tenant_bytes, self.owner);
            let keep = FlightEnd::Keep { window, length, tenant, tenant_bytes, owner };
            settled = self.backend.settle(self.flight, keep).await?;
            match settled {
                Settled::Done | Settled::NoRoom => break,
                Settled::Lost => {
                    // Redis restarted meanwhile: it lost the lease, and perhaps the log.
                    self.renew().await;
                    if self.is_lost {
                        break;
                    }
                }
                Settled::NotWhole => {}
            }
            self.relay.restart();
        }
        Ok(settled)
    }
}

/// Frees the key if this flight still holds it and its answer is not kept.
async fn free_again<B: Backend>(backend: &B, flight: Flight) {
    for wait in FREE_AGAIN {
        sleep(wait).await;
        if backend.settle(flight, FlightEnd::Free).await.is_ok() {
            return;
        }
    }
}

/// While it lives, the inbox reaches the task of this call.
struct Registration<B: Backend> {
    store: Weak<Inner<B>>,
    token: Token,
}

impl<B: Backend> Drop for Registration<B> {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.leaders().remove(&self.token);
        }
    }
}
