//! Requests of other processes: to share an answer, or to stop a call.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::inner::Inner;
use super::updates::Update;
use crate::backend::{Ask, Backend, Delivery, Flight, FlightEnd, Want};

/// The first wait after a failed subscription to the inbox.
const INBOX_RETRY: Duration = Duration::from_millis(100);
const INBOX_RETRY_AT_MOST: Duration = Duration::from_secs(5);

// === impl Inner ===

impl<B: Backend> Inner<B> {
    /// Subscribes to requests of other processes.
    pub(super) fn receive_wants(self: &Arc<Self>) {
        if !self.hears_wants.swap(true, Relaxed) {
            tokio::spawn(receive_wants(Arc::downgrade(self)));
        }
    }

    /// Asks the task of a call to share its answer. Returns whether there is one.
    fn share(&self, flight: Flight) -> bool {
        let leaders = self.leaders();
        let leader = leaders.get(&flight.token);
        if let Some(leader) = leader {
            // One pending request is enough.
            let _ = leader.wants.try_send(());
        }
        leader.is_some()
    }

    /// Redis may have restarted and lost the places of resumable answers: their tasks store them again.
    fn offer_again(&self) {
        for leader in self.leaders().values() {
            if let Some(updates) = leader.updates.upgrade() {
                let _ = updates.send(Update::OfferAgain);
            }
        }
    }

    /// Another process wants the answer to a call that it attributes to this process.
    fn on_want(&self, flight: Flight) {
        if self.share(flight) {
            return;
        }
        // The call is over, and Redis missed it. Frees the key unless the answer is kept; those who wait claim it
        // again.
        let backend = self.backend.clone();
        tokio::spawn(async move {
            let _ = backend.settle(flight, FlightEnd::Free).await;
            let _ = backend.forsake(flight).await;
        });
    }

    /// A caller came back to an answer in another process.
    fn on_ask(&self, ask: Ask) {
        match ask {
            Ask::Return(flight) => {
                if !self.share(flight) {
                    let backend = self.backend.clone();
                    tokio::spawn(async move { backend.forsake(flight).await });
                }
            }
            Ask::Stop(flight) => {
                let updates = self.leaders().get(&flight.token).and_then(|leader| leader.updates.upgrade());
                if let Some(updates) = updates {
                    let _ = updates.send(Update::Stop);
                }
            }
        }
    }
}

async fn receive_wants<B: Backend>(store: Weak<Inner<B>>) {
    let mut pause = INBOX_RETRY;
    loop {
        let Some((backend, process)) = store.upgrade().map(|store| (store.backend.clone(), store.process)) else {
            return;
        };
        let inbox = backend.inbox(process).await;
        // Otherwise the backend's tasks would not end.
        drop(backend);
        let Ok(mut inbox) = inbox else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(INBOX_RETRY_AT_MOST);
            continue;
        };
        pause = INBOX_RETRY;
        while let Some(delivery) = inbox.next().await {
            let Some(store) = store.upgrade() else { return };
            let Delivery::Message(message) = delivery else {
                // Senders of missed requests repeat them.
                store.offer_again();
                continue;
            };
            if let Some(Want(flight)) = Want::decode(&message) {
                store.on_want(flight);
            } else if let Some(ask) = Ask::decode(&message) {
                store.on_ask(ask);
            }
        }
    }
}
