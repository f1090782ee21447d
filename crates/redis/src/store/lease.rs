use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;
use tower_buttress::store::{AnswerOffers, Fingerprint, Lease, MemoryLease, Retention};

use super::offers::LeaseOffers;
use super::settling::Settling;
use super::updates::{Keep, Update};

/// The lease of a [`RedisStore`](crate::RedisStore).
pub struct RedisLease {
    memory: Option<MemoryLease>,
    key: Fingerprint,
    /// Sends updates to the task of the call.
    updates: mpsc::UnboundedSender<Update>,
    settling: Settling,
}

// === impl RedisLease ===

impl RedisLease {
    pub(super) fn new(
        memory: MemoryLease,
        key: Fingerprint,
        updates: mpsc::UnboundedSender<Update>,
        settling: Settling,
    ) -> Self {
        Self { memory: Some(memory), key, updates, settling }
    }
}

impl Lease for RedisLease {
    fn resize(&mut self, bytes: usize) -> bool {
        self.memory.as_mut().is_none_or(|memory| memory.resize(bytes))
    }

    fn accepted(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.accepted();
        }
        let _ = self.updates.send(Update::Accepted);
    }

    fn release(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.release();
        }
        let _ = self.updates.send(Update::Free);
    }

    fn keep(mut self, retention: Retention) {
        let Some(memory) = self.memory.take() else { return };
        let undecided = self.settling.begin(self.key);
        let update = Update::Keep(Box::new(Keep { memory, retention, undecided }));
        // The task ended with its runtime: keep the answer at least in this process.
        if let Err(mpsc::error::SendError(Update::Keep(keep))) = self.updates.send(update) {
            keep.memory.keep(keep.retention);
        }
    }

    fn offers(&self) -> Option<Arc<dyn AnswerOffers>> {
        Some(Arc::new(LeaseOffers(self.updates.clone())))
    }
}

impl Drop for RedisLease {
    fn drop(&mut self) {
        let _ = self.updates.send(Update::Over);
    }
}

impl fmt::Debug for RedisLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLease").field("memory", &self.memory).finish_non_exhaustive()
    }
}
