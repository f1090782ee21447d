//! Tracks open connections and streams for the drain.

use std::time::Duration;

use tokio::sync::watch;

/// Tells open connections to end, and waits for them.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Sender<bool>);

/// Something open; held while it is.
#[derive(Debug)]
pub(crate) struct OpenGuard(watch::Receiver<bool>);

// === impl Shutdown ===

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) -> OpenGuard {
        OpenGuard(self.0.subscribe())
    }

    /// Whether the drain has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// The number of open connections and streams.
    pub(crate) fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Starts the drain and waits. Returns whether everything ended in time.
    pub(crate) async fn finish(&self, limit: Option<Duration>) -> bool {
        self.0.send_replace(true);
        match limit {
            Some(limit) => tokio::time::timeout(limit, self.0.closed()).await.is_ok(),
            None => {
                self.0.closed().await;
                true
            }
        }
    }
}

// === impl Open ===

impl OpenGuard {
    /// Waits until the drain begins.
    pub(crate) async fn ending(&mut self) {
        if self.0.wait_for(|ending| *ending).await.is_err() {
            // The sender is gone: no drain will come.
            std::future::pending::<()>().await;
        }
    }
}
