//! The only reader of time.

use std::time::Instant;

/// Tokio's clock, so that a test that pauses it steers every layer.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
