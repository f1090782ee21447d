//! What is still open when the gateway is to stop.

use std::time::Duration;

use tokio::sync::watch;

/// Tells what is open to come to an end, and waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Sender<bool>);

/// Something that is open: held for as long as it is.
#[derive(Debug)]
pub(crate) struct Open(watch::Receiver<bool>);

// === impl Shutdown ===

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) -> Open {
        Open(self.0.subscribe())
    }

    /// Whether it is time to come to an end.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Has all that is open come to an end, and waits for it. Returns whether it was in time.
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

impl Open {
    /// Waits until it is time to come to an end.
    pub(crate) async fn ending(&mut self) {
        if self.0.wait_for(|ending| *ending).await.is_err() {
            // There is no sender left.
            std::future::pending::<()>().await;
        }
    }
}
