//! The task of a call that is made here: it holds the lease, and shares the answer with those who want it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tower_buttress::store::{ClaimRequest, Fingerprint, Lease, MemoryLease, ResponseLog, Retention, TenantHash};

use super::inner::{Inner, Reachable, Settings};
use super::offers::{Call, Offers};
use super::orders::{Keep, Order};
use super::relay::{Relay, Shared};
use crate::backend::{Backend, BackendError, ClaimArgs, Claimed, Flight, Outcome, Process, Settled, Token};

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
    /// Another process has the key, or has had it.
    is_lost: bool,
}

/// How often an answer is written anew that was lost while it was written.
const MAX_WRITES: u32 = 3;

/// How often a relay looks that has nothing to send.
const TICK: Duration = Duration::from_millis(250);

// === impl Leader ===

impl<B: Backend> Leader<B> {
    pub(super) fn spawn(
        store: &Arc<Inner<B>>,
        flight: Flight,
        request: &ClaimRequest,
        log: ResponseLog,
    ) -> mpsc::UnboundedSender<Order> {
        let (sender, orders) = mpsc::unbounded_channel();
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
            is_lost: false,
        };
        let (wants, registered) = mpsc::channel(1);
        store.leaders().insert(flight.token, Reachable { wants, orders: sender.downgrade() });
        let registration = Registration { store: Arc::downgrade(store), token: flight.token };
        tokio::spawn(async move {
            leader.run(orders, registered).await;
            drop(registration);
        });
        sender
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut wants: mpsc::Receiver<()>) {
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
            // Where it cannot be told, the lease ends by itself.
            let _ = self.backend.settle(self.flight, Outcome::Free).await;
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
                let _ = self.backend.settle(self.flight, Outcome::Free).await;
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
