//! The only reader of time.

use std::time::{Instant, SystemTime};

/// Tokio's clock, so that a test that pauses it steers every layer.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, for dates that a peer sent. No test can steer it: peers that send a `Date` are measured by that.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
