//! Circuits shared by processes.

mod driver;
mod given;
mod owed;
mod probing;
mod watched;

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use tower_buttress::{CircuitChange, CircuitOrder, CircuitPeers, PeerCircuit};

use self::driver::{CircuitDriver, Update};
use self::given::{Given, GivenOrders};
use crate::backend::{CircuitBackend, CircuitGroup, Process};
use crate::client::Redis;
use crate::driver::Updates;

/// Shares the circuits of a [`CircuitBreakerLayer`](tower_buttress::CircuitBreakerLayer) with other processes: they
/// learn from each other's failures, and one at a time probes for recovery.
///
/// ```
/// use tower_buttress::CircuitBreakerLayer;
/// use tower_buttress_redis::{FleetBreaker, Redis, RedisOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// let breaker = CircuitBreakerLayer::new().key_by_model().share(FleetBreaker::new(redis, "models"));
/// # let _ = breaker;
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *A call is made*: nothing. No call ever waits for Redis, whatever the state of its circuit.
/// - *A circuit opens here*: this process votes. The others learn of it within milliseconds.
/// - *Others vote*: a process whose last three calls succeeded, the last within 10 s, ignores the votes. Otherwise its
///   circuit opens if half of the processes, and at least two, have voted; with fewer votes one failure of its own
///   opens it. So a process with a broken network opens only its own circuits, also if it restarts now and then: the vote
///   of a process that is gone counts for another minute at most, and while it does, so does that process.
/// - *The open time is over*: the process requests the lease of the probe. The one that gets it makes its next call
///   the probe, whenever that comes; the others stay open until they learn the result. All processes share the count of
///   probes without an answer, so open times double for the fleet. A process that refuses a call requests the lease; one
///   that has it and had no call for 2 s (after its first return 8 s, then 32 s) returns it then. One that dies loses it
///   after 10 s, during its probe after a minute; one that is suspended for longer may probe beside the next. No other
///   process joins a long probe.
/// - *The probe succeeds*: all circuits close. For 10 s, one failure reopens them.
/// - *A process starts*: it reads each circuit at its first use, and learns of an open one in one round trip. With
///   [`key_by_model`](tower_buttress::CircuitBreakerLayer::key_by_model) a model has its circuit only after this process
///   had a 2xx for it, because callers can invent models. Until then its calls use the circuit `"<host> other"`, and this
///   process does not see that the model's circuit is open elsewhere.
/// - *Redis is unreachable*: each process continues and probes alone.
/// - *An operator gives an order* ([`order_everywhere`](tower_buttress::CircuitBreakerHandle::order_everywhere)):
///   every process applies it within milliseconds; one that missed it with its next look, a new one with its first. It
///   holds until the next order. If Redis restarts empty, a process that obeys the order sends it again. Redis forgets
///   it after a day without readers. The later of two orders wins, also if Redis got it late or its clock has jumped;
///   if both happen to one order, an earlier one may win. A circuit that opened after it was due to close stays open.
/// - *A circuit is set by hand otherwise, or closed by a health probe*: only in this process.
///
/// Layers with the same name on clones of one [`Redis`] have one vote. They learn of each other's circuits with their next
/// look.
///
/// Processes with different settings (windows, thresholds) can share circuits, because they share results. Their keys
/// must mean the same.
///
/// # Cost
///
/// One script when a circuit is first used, opens, or is probed; two scripts per circuit every 20 s, or every 5 s
/// while it is not closed; one every 2 s in the process that waits for a call to probe with.
pub struct FleetBreaker<B = Redis> {
    backend: B,
    group: CircuitGroup,
    process: Process,
    updates: Updates<Update>,
    given: Arc<GivenOrders>,
}

// === impl FleetBreaker ===

impl<B: CircuitBackend> FleetBreaker<B> {
    /// The circuits with this name: those of the same layer in each process.
    #[must_use]
    pub fn new(backend: B, name: &str) -> Self {
        let (group, process) = (CircuitGroup::new(name), backend.process());
        Self { backend, group, process, updates: Updates::new(), given: Arc::default() }
    }

    fn update(&self, update: Update) {
        let driver = || CircuitDriver::new(self.backend.clone(), self.group, self.process, self.given.clone());
        // Dropped if thousands wait already: the task catches up with its next look.
        let _ = self.updates.send(update, driver);
    }
}

impl<B: CircuitBackend> CircuitPeers for FleetBreaker<B> {
    fn on_new(&self, circuit: PeerCircuit) {
        self.update(Update::New(circuit));
    }

    fn on_order(&self, circuit: PeerCircuit, order: CircuitOrder) {
        let id = self.group.circuit(circuit.key());
        self.given.give(id, Given { circuit, order, at: Instant::now() });
        self.update(Update::Given);
    }

    fn on_change(&self, circuit: PeerCircuit, change: &CircuitChange) {
        self.update(Update::Changed(circuit, *change));
    }
}

impl<B> fmt::Debug for FleetBreaker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetBreaker").field("process", &self.process).finish_non_exhaustive()
    }
}
