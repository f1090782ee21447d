//! The result of a call's attempts, for a caller that gets an error instead of a response.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Receives, in a request's extensions, how many attempts [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer) made,
/// and whether further ones are pointless.
///
/// A response carries this itself ([`Attempts`](crate::Attempts), `x-should-retry`), but a call that ends in an error has
/// none. A server that answers it with a 502 keeps a clone of the report, and writes the same there.
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
pub struct RetryReport(Arc<State>);

#[derive(Debug, Default)]
struct State {
    attempts: AtomicU64,
    /// Of the call that this one joined last.
    joined: Mutex<Option<RetryReport>>,
}

/// A bit above the number of attempts.
const FINAL: u64 = 1 << 32;

// === impl RetryReport ===

impl RetryReport {
    /// Returns a report without attempts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of attempts so far; 0 if no retry layer has seen the call, or it was not to be retried.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.get() & (FINAL - 1)).unwrap_or(u32::MAX)
    }

    /// Whether the caller's own retries would only multiply these attempts; a server then sends `x-should-retry: false`.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.get() & FINAL != 0
    }

    fn get(&self) -> u64 {
        match self.0.attempts.load(Relaxed) {
            0 => self.0.joined().as_ref().map_or(0, |joined| joined.0.attempts.load(Relaxed)),
            attempts => attempts,
        }
    }

    /// Reports the attempts of `other` from now on, while its own call makes none.
    pub(crate) fn join(&self, other: &Self) {
        if !self.is(other) {
            let before = self.0.joined().replace(other.clone());
            drop(before);
        }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn set(&self, attempts: u32, is_final: bool) {
        self.0.attempts.store(u64::from(attempts) | if is_final { FINAL } else { 0 }, Relaxed);
        // Its own call counts now. Calls that joined each other at different times would keep each other's reports.
        let joined = self.0.joined().take();
        drop(joined);
    }
}

// === impl State ===

impl State {
    fn joined(&self) -> MutexGuard<'_, Option<RetryReport>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attempts_are_those_of_the_call_that_was_joined_last() {
        let [own, first, second] = [(); 3].map(|()| RetryReport::new());
        first.set(3, true);
        own.join(&first);
        assert_eq!((own.attempts(), own.is_final()), (3, true));
        own.join(&second);
        assert_eq!((own.attempts(), own.is_final()), (0, false), "it has none yet");
        second.set(1, false);
        assert_eq!((own.attempts(), own.is_final()), (1, false));
        own.set(2, false);
        assert_eq!(own.attempts(), 2, "its own");
    }

    #[test]
    fn reports_that_joined_each_other_do_not_keep_each_other() {
        let [one, other] = [(); 2].map(|()| RetryReport::new());
        let known = Arc::downgrade(&one.0);
        one.join(&other);
        one.set(1, false);
        other.join(&one);
        drop((one, other));
        assert_eq!(known.strong_count(), 0);
    }
}
