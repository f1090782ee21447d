//! How processes share the state of their circuits.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use super::circuit::Circuit;
use super::handle::CircuitBreakerHandle;
use crate::policy::breaker::order::CircuitOrder;
use crate::policy::breaker::peers::{PeerDecision, PeerReport};
use crate::policy::breaker::report::CircuitChange;
use crate::rt::clock;

/// Shares the circuits of a layer with other processes: see [`CircuitBreakerLayer::share`](crate::CircuitBreakerLayer::share).
///
/// The layer calls these methods on tasks that make calls: they must return at once, and move slow work to tasks of their
/// own. The crate `tower-buttress-redis` has an implementation over Redis.
///
/// ```
/// use std::time::Duration;
/// use tower_buttress::{CircuitBreakerLayer, CircuitChange, CircuitPeers, CircuitState, PeerCircuit, PeerReport};
///
/// /// Two of two processes find each upstream failing.
/// struct Pessimist;
///
/// impl CircuitPeers for Pessimist {
///     fn on_new(&self, circuit: PeerCircuit) {
///         circuit.apply(PeerReport::new(2, 2, Duration::from_secs(15)));
///     }
///
///     fn on_change(&self, _circuit: PeerCircuit, change: &CircuitChange) {
///         assert_eq!(change.to, CircuitState::Open);
///     }
/// }
///
/// let breaker = CircuitBreakerLayer::new().share(Pessimist);
/// assert_eq!(breaker.handle().state(), CircuitState::Open);
/// ```
pub trait CircuitPeers: Send + Sync + 'static {
    /// Called when a circuit is used for the first time in this process.
    fn on_new(&self, circuit: PeerCircuit);

    /// Called when a circuit has changed its state.
    fn on_change(&self, circuit: PeerCircuit, change: &CircuitChange);

    /// Called when an operator has given this circuit an order for every process. This process has carried it out; the
    /// implementation makes the others [obey](PeerCircuit::obey) it. Default: the order stays in this process.
    fn on_order(&self, circuit: PeerCircuit, order: CircuitOrder) {
        let _ = (circuit, order);
    }
}

/// One circuit of this process, for [`CircuitPeers`]. It does not keep the circuit alive.
#[derive(Clone)]
pub struct PeerCircuit {
    circuit: Weak<Circuit>,
    key: Option<Arc<str>>,
}

/// While it lives, no caller probes its open circuit: another process may be testing the upstream.
#[derive(Debug)]
pub struct ProbeHold(Weak<Circuit>);

/// The peers of a layer, which may be set after its circuits were made.
#[derive(Clone, Default)]
pub(super) struct SharedPeers(Arc<OnceLock<Box<dyn CircuitPeers>>>);

// === impl PeerCircuit ===

impl PeerCircuit {
    pub(super) fn new(circuit: Weak<Circuit>, key: Option<Arc<str>>) -> Self {
        Self { circuit, key }
    }

    /// The key; `None` for the circuit of calls without a key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The handle; `None` if the circuit is gone.
    #[must_use]
    pub fn handle(&self) -> Option<CircuitBreakerHandle> {
        self.circuit.upgrade().map(CircuitBreakerHandle::new)
    }

    /// Reports that other processes find the upstream failing. Returns the circuit's decision:
    ///
    /// 1. it does nothing if this process had three successes, the last at most 10 s ago, and no two calls in a row have
    ///    failed since;
    /// 2. it opens for as long as the peers' circuits are open, if at least half of the processes report it, and at least
    ///    two;
    /// 3. else one failure opens it, for as long as the peers' circuits are open, unless a call succeeds before.
    pub fn apply(&self, report: PeerReport) -> PeerDecision {
        let Some(circuit) = self.circuit.upgrade() else { return PeerDecision::Ignored };
        let now = clock::now();
        circuit.with(|machine| machine.apply_report(report, now))
    }

    /// Reports that a probe of another process got an answer: an open circuit closes, and one failure within 10 s opens
    /// it again.
    pub fn close(&self) {
        let now = clock::now();
        if let Some(circuit) = self.circuit.upgrade() {
            circuit.with(|machine| ((), machine.close_for_peers(now)));
        }
    }

    /// Carries out an operator's order from another process.
    pub fn obey(&self, order: CircuitOrder) {
        if let Some(handle) = self.handle() {
            handle.obey(order);
        }
    }

    /// Returns how many probes in a row got no answer: open times double with each.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.circuit.upgrade().map_or(0, |circuit| circuit.with(|machine| (machine.unanswered(), None)))
    }

    /// Reports how many probes of other processes in a row got no answer.
    pub fn note_unanswered(&self, unanswered: u32) {
        if let Some(circuit) = self.circuit.upgrade() {
            circuit.with(|machine| (machine.note_unanswered(unanswered), None));
        }
    }

    /// Prevents callers from probing until the hold is dropped.
    #[must_use = "dropped, it holds nothing"]
    pub fn hold_probes(&self) -> ProbeHold {
        if let Some(circuit) = self.circuit.upgrade() {
            circuit.with(|machine| (machine.hold_probes(), None));
        }
        ProbeHold(self.circuit.clone())
    }
}

impl fmt::Debug for PeerCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCircuit").field("key", &self.key).finish_non_exhaustive()
    }
}

// === impl ProbeHold ===

impl Drop for ProbeHold {
    fn drop(&mut self) {
        if let Some(circuit) = self.0.upgrade() {
            circuit.with(|machine| (machine.let_probe(), None));
        }
    }
}

// === impl SharedPeers ===

impl SharedPeers {
    /// Returns whether there were none before.
    pub(super) fn set(&self, peers: impl CircuitPeers) -> bool {
        self.0.set(Box::new(peers)).is_ok()
    }

    pub(super) fn get(&self) -> Option<&dyn CircuitPeers> {
        self.0.get().map(|peers| &**peers)
    }
}

impl fmt::Debug for SharedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.get().is_some() { "CircuitPeers" } else { "none" })
    }
}
