//! Notifies observers and subscribers of changes of state.

use std::sync::Arc;

use tokio::sync::watch;

use crate::event::{Emitter, Event};
use crate::policy::breaker::BreakerEvent;
use crate::policy::breaker::report::CircuitState;
use crate::rt::sync::{AtomicU32, Mutex, Ordering, lock};

/// Reports the changes of one circuit to its subscribers, and as events. Called outside every lock.
#[derive(Debug)]
pub(super) struct StateNotifier {
    key: Option<Arc<str>>,
    emitter: Arc<SharedEmitter>,
    state: watch::Sender<CircuitState>,
    /// The latest change that was published to subscribers.
    last_notified: AtomicU32,
}

/// The observer of all circuits of a layer, which may be set after they were created.
#[derive(Debug, Default)]
pub(super) struct SharedEmitter(Mutex<Emitter>);

// === impl StateNotifier ===

impl StateNotifier {
    pub(super) fn new(key: Option<Arc<str>>, emitter: Arc<SharedEmitter>, state: CircuitState) -> Self {
        Self { key, emitter, state: watch::Sender::new(state), last_notified: AtomicU32::new(0) }
    }

    pub(super) fn key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<CircuitState> {
        self.state.subscribe()
    }

    #[cold]
    pub(super) fn notify(&self, event: &BreakerEvent) {
        let key = self.key.clone();
        match *event {
            BreakerEvent::Changed(change) => {
                self.state.send_if_modified(|state| {
                    // The later of two changes may arrive first; the earlier must not overwrite it.
                    let news = self.last_notified.fetch_max(change.generation, Ordering::Relaxed) < change.generation;
                    if news {
                        *state = change.to;
                    }
                    news
                });
                self.emitter.get().emit(&Event::CircuitChanged { key, change });
            }
            BreakerEvent::Reached { reason, stats } => {
                self.emitter.get().emit(&Event::CircuitWouldOpen { key, reason, stats });
            }
        }
    }
}

// === impl SharedEmitter ===

impl SharedEmitter {
    pub(super) fn set(&self, emitter: Emitter) {
        *lock(&self.0) = emitter;
    }

    fn get(&self) -> Emitter {
        lock(&self.0).clone()
    }
}
