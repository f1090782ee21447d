//! What other processes ask this one for: to share an answer, or to stop a call.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::inner::Inner;
use super::updates::Update;
use crate::backend::{Ask, Backend, Flight, FlightEnd, Heard, Want};

/// How long this process waits, at first, when Redis did not let it subscribe to its inbox.
const INBOX_RETRY: Duration = Duration::from_millis(100);
const INBOX_RETRY_AT_MOST: Duration = Duration::from_secs(5);

// === impl Inner ===

impl<B: Backend> Inner<B> {
    /// From now on, hears what other processes ask this one for.
    pub(super) fn hear_wants(self: &Arc<Self>) {
        if !self.hears_wants.swap(true, Relaxed) {
            tokio::spawn(hear_wants(Arc::downgrade(self)));
        }
    }

    /// Asks the task of a call to share its answer. Returns whether there is such a task.
    fn share(&self, flight: Flight) -> bool {
        let leaders = self.leaders();
        let leader = leaders.get(&flight.token);
        if let Some(leader) = leader {
            // The channel has room for one: a second want while the task has not seen the first would say nothing new.
            let _ = leader.wants.try_send(());
        }
        leader.is_some()
    }

    /// Redis may have been restarted, and have forgotten which answers callers may come back to: their tasks tell it again.
    fn offer_again(&self) {
        for leader in self.leaders().values() {
            if let Some(updates) = leader.updates.upgrade() {
                let _ = updates.send(Update::OfferAgain);
            }
        }
    }

    /// Another process wants the answer to a call that, as far as it knows, this process makes.
    fn on_want(&self, flight: Flight) {
        if self.share(flight) {
            return;
        }
        // The call is over, and Redis did not hear of it. This frees its key, unless the answer is kept, and those who wait for
        // it claim the key anew.
        let backend = self.backend.clone();
        tokio::spawn(async move {
            let _ = backend.settle(flight, FlightEnd::Free).await;
            let _ = backend.forsake(flight).await;
        });
    }

    /// A caller came back to an answer, in another process.
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

async fn hear_wants<B: Backend>(store: Weak<Inner<B>>) {
    let mut pause = INBOX_RETRY;
    loop {
        let Some((backend, process)) = store.upgrade().map(|store| (store.backend.clone(), store.process)) else {
            return;
        };
        let inbox = backend.inbox(process).await;
        // The backend's tasks end when nobody has it any more.
        drop(backend);
        let Ok(mut inbox) = inbox else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(INBOX_RETRY_AT_MOST);
            continue;
        };
        pause = INBOX_RETRY;
        while let Some(heard) = inbox.next().await {
            let Some(store) = store.upgrade() else { return };
            let Heard::Message(message) = heard else {
                // Who asked for something that was missed here asks again.
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
