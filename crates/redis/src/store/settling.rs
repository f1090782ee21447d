//! Keys whose answer has ended while Redis decides whether to keep it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tower_buttress::store::Fingerprint;

#[derive(Clone, Debug, Default)]
pub(super) struct Settling {
    keys: Arc<Mutex<HashMap<Fingerprint, watch::Receiver<()>>>>,
}

/// Claims of its key wait while it lives.
#[derive(Debug)]
pub(super) struct Undecided {
    settling: Settling,
    key: Fingerprint,
    /// Dropping it wakes the waiting claims.
    decided: watch::Sender<()>,
}

// === impl Settling ===

impl Settling {
    pub(super) fn begin(&self, key: Fingerprint) -> Undecided {
        let (decided, waiting) = watch::channel(());
        self.keys().insert(key, waiting);
        Undecided { settling: self.clone(), key, decided }
    }

    /// Waits for the decision, at most `at_most`. A claim that continues without it joins the ended call.
    pub(super) async fn wait(&self, key: &Fingerprint, at_most: Duration) {
        let waiting = self.keys().get(key).cloned();
        if let Some(mut waiting) = waiting {
            let _ = tokio::time::timeout(at_most, async { while waiting.changed().await.is_ok() {} }).await;
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<Fingerprint, watch::Receiver<()>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Undecided ===

impl Drop for Undecided {
    fn drop(&mut self) {
        let mut keys = self.settling.keys();
        // A later flight may have taken the key.
        if keys.get(&self.key).is_some_and(|waiting| waiting.same_channel(&self.decided.subscribe())) {
            keys.remove(&self.key);
        }
    }
}
