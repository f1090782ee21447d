//! What became of a call's attempts, for a caller that gets an error instead of a response.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// In a request's extensions: where [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer) writes how many attempts it
/// made, and whether others are pointless.
///
/// A response says so itself ([`Attempts`](crate::Attempts), `x-should-retry`), but a call that ends in an error has none.
/// A server that puts a 502 in its place keeps a clone of the report that it gave to the call, and says the same there.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::io;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_buttress::{RetryAfterBackoffLayer, RetryReport};
///
/// let broken = service_fn(|_: Request<_>| async {
///     Err::<Response<Full<Bytes>>, _>(io::Error::from(io::ErrorKind::ConnectionReset))
/// });
/// let report = RetryReport::new();
/// let request = Request::get("/").extension(report.clone()).body(Full::<Bytes>::default()).unwrap();
/// RetryAfterBackoffLayer::new().layer(broken).oneshot(request).await.unwrap_err();
///
/// assert_eq!(report.attempts(), 3);
/// assert!(report.is_final());
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RetryReport(Arc<AtomicU64>);

/// Above the attempts.
const FINAL: u64 = 1 << 32;

// === impl RetryReport ===

impl RetryReport {
    /// A report of a call that no attempt was made for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The attempts made so far; 0 where no retry layer has seen the call, or it was not to be retried.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.0.load(Relaxed) & (FINAL - 1)).unwrap_or(u32::MAX)
    }

    /// Whether the caller's own retries would only multiply the attempts that were made here: what a server says with
    /// `x-should-retry: false`.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0.load(Relaxed) & FINAL != 0
    }

    pub(crate) fn set(&self, attempts: u32, is_final: bool) {
        self.0.store(u64::from(attempts) | if is_final { FINAL } else { 0 }, Relaxed);
    }
}
