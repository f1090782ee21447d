use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::circuit::Circuit;
use crate::policy::breaker::order::CircuitOrder;
use crate::policy::breaker::report::{CircuitSnapshot, CircuitState};
use crate::rt::clock;

/// One circuit of a [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), to read and to control.
///
/// It keeps the circuit alive, but no service. Clones are cheap.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use tower_buttress::{CircuitBreakerLayer, CircuitState};
///
/// let breaker = CircuitBreakerLayer::new();
/// let circuit = breaker.handle();
/// let mut changes = circuit.subscribe();
///
/// // Maintenance: no call goes there until it is closed again.
/// circuit.isolate();
/// assert_eq!(circuit.state(), CircuitState::Isolated);
/// assert_eq!(*changes.borrow_and_update(), CircuitState::Isolated);
///
/// circuit.close();
/// assert_eq!(circuit.snapshot().state, CircuitState::Closed);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreakerHandle {
    circuit: Arc<Circuit>,
}

// === impl CircuitBreakerHandle ===

impl CircuitBreakerHandle {
    pub(super) fn new(circuit: Arc<Circuit>) -> Self {
        Self { circuit }
    }

    /// The key of this circuit; `None` for the circuit of calls without a key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.circuit.notifier.key().map(|key| &**key)
    }

    /// The state of the circuit. A circuit whose open time has passed stays open until a call comes.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        self.snapshot().state
    }

    /// Returns the current state and counts.
    #[must_use]
    pub fn snapshot(&self) -> CircuitSnapshot {
        self.circuit.snapshot(clock::now())
    }

    /// Returns a channel with the state. A receiver may miss changes, but never the latest.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<CircuitState> {
        self.circuit.notifier.subscribe()
    }

    /// Refuses every call until [`close`](Self::close).
    pub fn isolate(&self) {
        let now = clock::now();
        self.circuit.with(|machine| ((), machine.isolate(now)));
    }

    /// Opens the circuit for this duration, from now. Then a call probes, as after any open time.
    pub fn open_for(&self, time: Duration) {
        let now = clock::now();
        self.circuit.with(|machine| ((), machine.open_by_hand(time, now)));
    }

    /// Closes the circuit from any state, and resets its counts.
    pub fn close(&self) {
        let now = clock::now();
        self.circuit.with(|machine| ((), machine.close_by_hand(now)));
    }

    /// Lets every call pass and keeps counting. When the circuit would open, it emits an
    /// [`Event::CircuitWouldOpen`](crate::Event::CircuitWouldOpen). [`close`](Self::close) ends it.
    pub fn metrics_only(&self) {
        let now = clock::now();
        self.circuit.with(|machine| ((), machine.only_count(now)));
    }

    /// Lets every call pass and counts nothing, until [`close`](Self::close).
    pub fn disable(&self) {
        let now = clock::now();
        self.circuit.with(|machine| ((), machine.disable(now)));
    }

    /// Carries out an order in this process at once, and in every other process that
    /// [shares](crate::CircuitBreakerLayer::share) the circuit, also in one that starts later. Of two orders the later
    /// one applies. The other methods affect only this process, until the next order.
    ///
    /// Peers that are unreachable get the order later. Without peers, or with peers that do not support orders, only this
    /// process carries it out.
    ///
    /// ```
    /// use tower_buttress::{CircuitBreakerLayer, CircuitOrder, CircuitState};
    ///
    /// let breaker = CircuitBreakerLayer::new();
    /// breaker.handle().order_everywhere(CircuitOrder::Isolate);
    /// assert_eq!(breaker.handle().state(), CircuitState::Isolated);
    /// breaker.handle().order_everywhere(CircuitOrder::Close);
    /// assert_eq!(breaker.handle().state(), CircuitState::Closed);
    /// ```
    pub fn order_everywhere(&self, order: CircuitOrder) {
        self.obey(order);
        self.circuit.order_everywhere(order);
    }

    pub(super) fn obey(&self, order: CircuitOrder) {
        match order {
            CircuitOrder::Isolate => self.isolate(),
            CircuitOrder::Disable => self.disable(),
            CircuitOrder::MetricsOnly => self.metrics_only(),
            CircuitOrder::Close => self.close(),
        }
    }
}
