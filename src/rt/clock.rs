//! The only module that reads clocks.

use std::time::{Instant, SystemTime};

/// Tokio's clock, so that a test with paused time controls every layer.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, for dates that a peer sent. Tests cannot control it.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
