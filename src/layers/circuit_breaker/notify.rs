//! Who is told of a change of state.

use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::watch;

use super::circuit::Circuit;
use super::health::Prober;
use crate::event::{Emitter, Event};
use crate::policy::breaker::BreakerEvent;
use crate::policy::breaker::report::CircuitState;
use crate::rt::sync::{AtomicU32, Ordering};

/// Tells of what one circuit does, to whoever subscribed, and as events. Called without any lock.
#[derive(Debug)]
pub(super) struct StateNotifier {
    key: Option<Arc<str>>,
    emitter: Emitter,
    state: watch::Sender<CircuitState>,
    /// The latest change that subscribers know of.
    told: AtomicU32,
    /// Belongs to the layer: who only looks at a circuit keeps no service alive.
    prober: Weak<OnceLock<Prober>>,
}

// === impl StateNotifier ===

impl StateNotifier {
    pub(super) fn new(
        key: Option<Arc<str>>,
        emitter: Emitter,
        state: CircuitState,
        prober: Weak<OnceLock<Prober>>,
    ) -> Self {
        Self { key, emitter, state: watch::Sender::new(state), told: AtomicU32::new(0), prober }
    }

    pub(super) fn key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<CircuitState> {
        self.state.subscribe()
    }

    #[cold]
    pub(super) fn tell(&self, notice: &BreakerEvent, circuit: &Weak<Circuit>) {
        let key = self.key.clone();
        match *notice {
            BreakerEvent::Changed(change) => {
                self.state.send_if_modified(|state| {
                    // Of two threads the later change may get here first, and is then not taken back by the earlier.
                    let news = self.told.fetch_max(change.generation, Ordering::Relaxed) < change.generation;
                    if news {
                        *state = change.to;
                    }
                    news
                });
                self.emitter.emit(&Event::CircuitChanged { key, change });
                let prober = self.prober.upgrade();
                if let (CircuitState::Open, Some(prober)) = (change.to, prober.as_ref().and_then(|prober| prober.get()))
                {
                    prober.look_after(circuit);
                }
            }
            BreakerEvent::Reached { cause, figures } => {
                self.emitter.emit(&Event::CircuitWouldOpen { key, cause, figures });
            }
        }
    }
}
