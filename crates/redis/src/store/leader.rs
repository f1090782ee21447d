//! The task of a call that is made here: it holds the lease, and shares the answer with those who want it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};
use tower_buttress::store::{ClaimRequest, Fingerprint, Lease, MemoryLease, ResponseLog, Retention, TenantHash};

use super::inner::{Inner, Reachable, Settings};
use super::offers::{Call, Offers};
use super::orders::{Keep, Order};
use super::relay::{Relay, Shared};
use crate::backend::{Backend, BackendError, ClaimArgs, Claimed, Flight, Outcome, Process, Settled, Token};

/// How the task of a call is reached. Dropped, it is not reached any more.
pub(super) struct Mailbox<B: Backend> {
    sender: mpsc::UnboundedSender<Order>,
    orders: mpsc::UnboundedReceiver<Order>,
    wants: mpsc::Receiver<()>,
    registration: Registration<B>,
}

pub(super) struct Leader<B: Backend> {
    backend: B,
    store: Weak<Inner<B>>,
    settings: Settings,
    process: Process,
    flight: Flight,
    payload: Fingerprint,
    tenant: Fingerprint,
    owner: Option<TenantHash>,
    log: ResponseLog,
    relay: Relay,
    offers: Offers,
    claimed: Instant,
    has_key: bool,
    /// It is over, and the backend could not be told.
    owes_free: bool,
    /// Another process has the key, or has had it.
    is_lost: bool,
}

/// How often an answer is written anew that was lost while it was written.
const MAX_WRITES: u32 = 3;

/// How often a relay looks that has nothing to send.
const TICK: Duration = Duration::from_millis(250);

/// How long after each other it is tried to free a key, where the backend could not be told.
const FREE_AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

// === impl Mailbox ===

impl<B: Backend> Mailbox<B> {
    pub(super) fn open(store: &Arc<Inner<B>>, token: Token) -> Self {
        let (sender, orders) = mpsc::unbounded_channel();
        let (wanted, wants) = mpsc::channel(1);
        store.leaders().insert(token, Reachable { wants: wanted, orders: sender.downgrade() });
        Self { sender, orders, wants, registration: Registration { store: Arc::downgrade(store), token } }
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
    ) -> mpsc::UnboundedSender<Order> {
        let Mailbox { sender, orders, wants, registration } = mailbox;
        // Not held by the task: it must see that the lease is gone.
        let (payload, tenant) = (*request.payload(), *request.tenant());
        let relay = Relay::new(flight, payload, log.clone(), store.settings);
        let leader = Self {
            backend: store.backend.clone(),
            store: Arc::downgrade(store),
            settings: store.settings,
            process: store.process,
            flight,
            payload,
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
            let owes_free = leader.run(orders, wants).await;
            // Those who ask from now on are told that it is not here.
            drop(registration);
            if owes_free {
                free_again(&backend, flight).await;
            }
        });
        sender
    }

    /// Returns whether the key is still to be freed.
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut wants: mpsc::Receiver<()>) -> bool {
        let every = self.settings.lease / 3;
        let mut renew = interval_at(Instant::now() + every, every);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // As long as the layer holds the lease, or an answer that callers may come back to.
        let mut has_orders = true;
        while has_orders || self.offers.is_open() || self.relay.is_sharing() {
            let order = tokio::select! {
                biased;
                order = orders.recv(), if has_orders => order,
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
            match order {
                Some(Order::Free) => self.free().await,
                Some(Order::Keep(keep)) => {
                    let Keep { memory, retention, undecided } = *keep;
                    self.keep(memory, retention).await;
                    drop(undecided);
                    // What is kept is not freed.
                    self.has_key = false;
                }
                Some(Order::Over) => self.free().await,
                Some(Order::Offer(offer)) => {
                    let call = self.call();
                    self.offers.add(*offer, &self.backend, call).await;
                }
                Some(Order::Ended) => {
                    let call = self.call();
                    self.offers.ended(&self.backend, call).await;
                }
                Some(Order::Withdraw) => self.offers.withdraw(&self.backend).await,
                Some(Order::OfferAgain) => self.offers.tell_soon(),
                Some(Order::Stop) => self.offers.stop(),
                None => {
                    has_orders = false;
                    self.offers.close();
                    self.free().await;
                }
            }
        }
        self.owes_free
    }

    fn call(&self) -> Call {
        Call { flight: self.flight, payload: self.payload, process: self.process, claimed: self.claimed }
    }

    async fn renew(&mut self) {
        if self.is_lost || self.backend.renew(self.flight, self.settings.lease).await != Ok(false) {
            return;
        }
        // Redis may have forgotten it: it was restarted, or could not be reached when the call was made.
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
        self.offers.tell_soon();
    }

    async fn free(&mut self) {
        if std::mem::replace(&mut self.has_key, false) && !self.is_lost {
            // Where it cannot be told at all, the lease ends by itself.
            self.owes_free = self.backend.settle(self.flight, Outcome::Free).await.is_err();
        }
    }

    /// Sends what there is to those who want it.
    async fn share(&mut self) {
        // Those who read of a failure find the key free.
        if self.log.has_failed() {
            self.free().await;
        }
        match self.relay.send(&self.backend).await {
            Shared::On => {}
            Shared::Outgrown => self.outgrown().await,
            Shared::Refused => {
                // Nobody elsewhere can have it: they make calls of their own.
                self.free().await;
                let _ = self.backend.forsake(self.flight).await;
                self.bypassed("the backend has no room for an answer: it is not shared");
            }
        }
    }

    /// Those elsewhere must not wait for it: a claim says that nobody can join.
    async fn outgrown(&self) {
        let _ = self.backend.outgrow(self.flight).await;
        let _ = self.backend.forsake(self.flight).await;
    }

    fn bypassed(&self, reason: &'static str) {
        if let Some(store) = self.store.upgrade() {
            store.bypassed(reason);
        }
    }

    /// Writes all of it, and makes it a replay for every process.
    async fn keep(&mut self, memory: MemoryLease, retention: Retention) {
        let settled = if self.is_lost { Ok(Settled::Lost) } else { self.settle(&retention).await };
        match settled {
            // What is in Redis may be forgotten here to make room.
            Ok(Settled::Done) => memory.keep(Retention::new(retention.now(), retention.window())),
            // The key is another's, and so is the answer that belongs to it.
            Ok(Settled::Lost) => drop(memory),
            Ok(Settled::NotWhole | Settled::NoRoom) | Err(_) => {
                memory.keep(retention);
                self.owes_free = self.backend.settle(self.flight, Outcome::Free).await.is_err();
                self.bypassed(match settled {
                    Ok(Settled::NoRoom) => {
                        "a tenant has as much kept in the backend as it may: this process keeps the rest"
                    }
                    _ => "the backend could not keep an answer: this process does",
                });
            }
        }
        // Those who have not read its end elsewhere will not find it: it was too long, or was lost.
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
            let (tenant, tenant_bytes, owner) = (self.tenant, self.settings.tenant_bytes, self.owner);
            let keep = Outcome::Keep { window, length, tenant, tenant_bytes, owner };
            settled = self.backend.settle(self.flight, keep).await?;
            match settled {
                Settled::Done | Settled::NoRoom => break,
                Settled::Lost => {
                    // Redis was restarted meanwhile: it has forgotten the lease, and perhaps the log.
                    self.renew().await;
                    if self.is_lost {
                        break;
                    }
                }
                Settled::NotWhole => {}
            }
            self.relay.rewind();
        }
        Ok(settled)
    }
}

/// Only where it is still this flight's, and its answer is not kept.
async fn free_again<B: Backend>(backend: &B, flight: Flight) {
    for wait in FREE_AGAIN {
        sleep(wait).await;
        if backend.settle(flight, Outcome::Free).await.is_ok() {
            return;
        }
    }
}

/// The task can be asked to share its call.
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
