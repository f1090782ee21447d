//! Records the calls that reached the provider, for tests.

use tokio::sync::watch;

/// Running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted so far.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// Calls that arrived.
    pub calls: u64,
    /// Calls whose answers followed their script to the end.
    pub finished: u64,
    /// Calls whose caller left earlier.
    pub abandoned: u64,
}

/// A received call.
#[derive(Clone, Debug)]
pub struct ReceivedCall {
    /// Its headers.
    pub headers: http::HeaderMap,
    /// Its body, whole.
    pub body: bytes::Bytes,
}

/// A call in progress. Dropped unfinished, it counts as abandoned.
#[derive(Debug)]
pub(super) struct ProviderCall {
    counts: watch::Sender<Counts>,
    pub(super) number: u64,
    finished: bool,
}

// === impl Call ===

impl ProviderCall {
    pub(super) fn begin(counts: &watch::Sender<Counts>) -> Self {
        let mut number = 0;
        counts.send_modify(|counts| {
            counts.calls += 1;
            number = counts.calls;
        });
        Self { counts: counts.clone(), number, finished: false }
    }

    pub(super) fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            self.counts.send_modify(|counts| counts.finished += 1);
        }
    }
}

impl Drop for ProviderCall {
    fn drop(&mut self) {
        if !self.finished {
            self.counts.send_modify(|counts| counts.abandoned += 1);
        }
    }
}
