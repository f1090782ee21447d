//! Circuits that the processes of a fleet share.

mod driver;
mod given;
mod owed;
mod probing;
mod watched;

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use tower_buttress::{CircuitChange, CircuitOrder, CircuitPeers, PeerCircuit};

use self::driver::{Circuits, Update};
use self::given::{Given, GivenOrders};
use crate::backend::{CircuitBackend, CircuitGroup, Process};
use crate::client::Redis;
use crate::driver::Updates;

/// Shares the circuits of a [`CircuitBreakerLayer`](tower_buttress::CircuitBreakerLayer) with those of other processes: what
/// one has found out need not be found out by all, and one process at a time tests whether the upstream is well again.
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
/// - *A call is made*: nothing. Redis is never asked in a call, whatever the state of its circuit.
/// - *A circuit opens here*: this process votes. The others hear of it within milliseconds.
/// - *Others vote*: a process whose last three calls succeeded, the last of them within 10 s, ignores it. Else its circuit
///   opens where half of the processes have voted, and two at least; otherwise one failure of its own opens it. A process
///   whose own network is broken so opens no circuit but its own.
/// - *The open time is over*: the process asks for the lease of the probe. The one that gets it makes its next call the
///   probe; the others stay open until they hear of it. How often a probe got no answer is counted for all, so that open times
///   double for the fleet. A process that gets no call to probe with gives the lease back after 2 s. One that
///   is gone loses it after a minute; however long a probe takes, no other process joins it.
/// - *The probe succeeds*: the circuits of all close. For 10 s, one failure opens them again.
/// - *A process starts*: it asks once for each circuit that it uses first, and learns of one that is open.
/// - *Redis cannot be reached*: each process goes on by itself, as without sharing, and probes by itself.
/// - *An operator gives an order* ([`order_everywhere`](tower_buttress::CircuitBreakerHandle::order_everywhere)): it is carried
///   out in every process within milliseconds, by one that missed it with its next look, and by one that starts with its
///   first. It holds until the next order; where Redis was restarted empty, a process that obeys it tells it again. What no
///   process asks for is forgotten after a day. Of two orders that counts which was given later, also where Redis could not
///   be told of it at once, or its clock has jumped since. A circuit that has opened since it was to close stays open.
/// - *A circuit is set by hand otherwise, or closed by a health probe*: that is this process's.
///
/// Processes that count calls differently (other windows, other thresholds) can share their circuits: what is shared are
/// findings. Their keys must mean the same.
///
/// # Cost
///
/// A script for a circuit that is used first, that opens, and that is tested; and two for each circuit every 20 s, every 5 s
/// while it is not closed.
pub struct FleetBreaker<B = Redis> {
    backend: B,
    group: CircuitGroup,
    process: Process,
    updates: Updates<Update>,
    given: Arc<GivenOrders>,
}

// === impl FleetBreaker ===

impl<B: CircuitBackend> FleetBreaker<B> {
    /// The circuits of this name: those of the same layer in each process.
    #[must_use]
    pub fn new(backend: B, name: &str) -> Self {
        let (group, process) = (CircuitGroup::new(name), Process::random());
        Self { backend, group, process, updates: Updates::new(), given: Arc::default() }
    }

    fn update(&self, update: Update) {
        let driver = || Circuits::new(self.backend.clone(), self.group, self.process, self.given.clone());
        // Where thousands wait already, it is dropped: the task finds out with its next look.
        let _ = self.updates.tell(update, driver);
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
