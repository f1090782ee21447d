//! Orders of operators in this process, until the task takes them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tower_buttress::{CircuitOrder, PeerCircuit};

use crate::backend::CircuitId;

/// The last order per circuit. Kept apart from updates, some of which are dropped when there are too many; no order
/// may be.
#[derive(Debug, Default)]
pub(super) struct GivenOrders(Mutex<HashMap<CircuitId, Given>>);

#[derive(Debug)]
pub(super) struct Given {
    pub(super) circuit: PeerCircuit,
    pub(super) order: CircuitOrder,
    pub(super) at: Instant,
}

// === impl GivenOrders ===

impl GivenOrders {
    fn lock(&self) -> MutexGuard<'_, HashMap<CircuitId, Given>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give(&self, id: CircuitId, given: Given) {
        let mut orders = self.lock();
        orders.retain(|_, given| given.circuit.handle().is_some());
        orders.insert(id, given);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn take(&self) -> Vec<Given> {
        self.lock().drain().map(|(_, given)| given).collect()
    }
}
