//! How the circuits of several processes learn of one another.

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
/// Its methods are called on tasks that make calls: they must return at once, and leave what takes time to a task of
/// their own. The crate `tower-buttress-redis` has one over Redis.
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
///         circuit.hear(PeerReport::new(2, 2, Duration::from_secs(15)));
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
    /// A circuit is used for the first time in this process.
    fn on_new(&self, circuit: PeerCircuit);

    /// A circuit has changed its state.
    fn on_change(&self, circuit: PeerCircuit, change: &CircuitChange);

    /// An operator has given an order to this circuit, for every process: it is carried out here, and the others are to
    /// [obey](PeerCircuit::obey) it. Default: it is this process's.
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

/// As long as it lives, no caller is a probe of its open circuit: another process may be testing the upstream.
#[derive(Debug)]
pub struct ProbeHold(Weak<Circuit>);

/// Those of a layer, which may be set after its circuits were made.
#[derive(Clone, Default)]
pub(super) struct SharedPeers(Arc<OnceLock<Box<dyn CircuitPeers>>>);

// === impl PeerCircuit ===

impl PeerCircuit {
    pub(super) fn new(circuit: Weak<Circuit>, key: Option<Arc<str>>) -> Self {
        Self { circuit, key }
    }

    /// Its key; `None` for the circuit of calls without one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Its handle; `None` where it is gone.
    #[must_use]
    pub fn handle(&self) -> Option<CircuitBreakerHandle> {
        self.circuit.upgrade().map(CircuitBreakerHandle::new)
    }

    /// Other processes find the upstream failing. Returns what the circuit makes of it:
    ///
    /// 1. nothing, where this process had three successes of which the last is not older than 10 s, and no two calls in a
    ///    row have failed since;
    /// 2. it opens for as long as theirs are open, where half of the processes say so, and two at least;
    /// 3. else one failure opens it, for as long as theirs are open, unless a call succeeds before.
    pub fn hear(&self, report: PeerReport) -> PeerDecision {
        let Some(circuit) = self.circuit.upgrade() else { return PeerDecision::Ignored };
        let now = clock::now();
        circuit.with(|machine| machine.hear_peers(report, now))
    }

    /// Another process has had an answer to its probe: an open circuit closes, and one failure within 10 s opens it again.
    pub fn close(&self) {
        let now = clock::now();
        if let Some(circuit) = self.circuit.upgrade() {
            circuit.with(|machine| ((), machine.close_for_peers(now)));
        }
    }

    /// An operator has given an order to this circuit in another process.
    pub fn obey(&self, order: CircuitOrder) {
        if let Some(handle) = self.handle() {
            handle.obey(order);
        }
    }

    /// How many probes in a row got no answer: open times double with each.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.circuit.upgrade().map_or(0, |circuit| circuit.with(|machine| (machine.unanswered(), None)))
    }

    /// The probes of other processes have got no answer as often as that.
    pub fn note_unanswered(&self, unanswered: u32) {
        if let Some(circuit) = self.circuit.upgrade() {
            circuit.with(|machine| (machine.note_unanswered(unanswered), None));
        }
    }

    /// From now on no caller is a probe, until the hold is dropped.
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
