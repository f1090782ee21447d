//! The settings of answers that callers come back to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::unattended::UnattendedLimits;

/// How callers come back to an answer: see [`DedupLayer::resumable`](crate::DedupLayer::resumable).
///
/// ```
/// use std::time::Duration;
/// use tower_buttress::{DedupLayer, Resumable};
///
/// let layer = DedupLayer::new()
///     .resumable(Resumable::at("/answers").window(Duration::from_secs(120)).respond_async(true));
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct Resumable {
    prefix: String,
    pub(crate) window: Duration,
    pub(crate) max_response: usize,
    per_tenant: u32,
    total: Total,
    pub(crate) respond_async: bool,
}

/// The limit on all calls that continue while no caller listens.
#[derive(Clone)]
enum Total {
    Fixed(u32),
    Now(Arc<dyn Fn() -> u32 + Send + Sync>),
}

// === impl Resumable ===

impl Resumable {
    /// Puts answers at `<prefix>/<token>`. The prefix is a path, as the layer and the callers see it: `/answers`.
    ///
    /// Characters other than letters, digits and `/-._~` are removed.
    #[must_use]
    pub fn at(prefix: &str) -> Self {
        let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "/-._~".contains(*letter);
        let path: String = prefix.chars().filter(is_plain).collect();
        Self {
            prefix: format!("/{}", path.trim_matches('/')),
            window: Duration::from_secs(5 * 60),
            max_response: 8 * 1024 * 1024,
            per_tenant: 8,
            total: Total::Fixed(256),
            respond_async: false,
        }
    }

    /// How long a call continues while no caller listens, and how long a complete answer stays readable. Default: 5
    /// minutes.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// The longest answer that callers can come back to, in bytes. Default: 8 MiB. It counts in the
    /// [memory](crate::DedupLayer::memory) and in the store.
    #[must_use]
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.max_response = bytes;
        self
    }

    /// The number of calls that continue at a time while no caller listens: per tenant, and in total. Beyond that, a call
    /// whose last caller leaves continues only for the [`grace`](crate::DedupLayer::grace), and `respond-async` is not
    /// applied. Default: 8 and 256.
    ///
    /// Credentials can be made up: tenants without a 2xx so far, and without a [`Tenant`](crate::Tenant) in the request's
    /// extensions, share one tenant's limit.
    ///
    /// A call whose caller got a 202 keeps its place to its end, even if callers read its answer and leave again.
    #[must_use]
    pub fn unattended(mut self, per_tenant: u32, total: u32) -> Self {
        self.per_tenant = per_tenant;
        self.total = Total::Fixed(total);
        self
    }

    /// Makes the total limit adjustable: the layer calls `total` when a caller leaves. Calls that already continue are
    /// not affected.
    ///
    /// ```
    /// use tower_buttress::{DedupLayer, QueueLayer, Resumable};
    ///
    /// // Calls without a caller have a quarter of the upstream's places.
    /// let queue = QueueLayer::auto(4, 400);
    /// let places = queue.clone();
    /// let resumable = Resumable::at("/answers").unattended_total(move || places.stats().limit / 4);
    /// # let _ = (DedupLayer::new().resumable(resumable), queue);
    /// ```
    #[must_use]
    pub fn unattended_total(mut self, total: impl Fn() -> u32 + Send + Sync + 'static) -> Self {
        self.total = Total::Now(Arc::new(total));
        self
    }

    /// Whether `Prefer: respond-async` is applied. Default: no.
    #[must_use]
    pub fn respond_async(mut self, apply: bool) -> Self {
        self.respond_async = apply;
        self
    }

    /// Returns the current limits on calls that continue while no caller listens.
    pub(crate) fn unattended_limits(&self) -> UnattendedLimits {
        let total = match &self.total {
            Total::Fixed(total) => *total,
            Total::Now(total) => total(),
        };
        UnattendedLimits { per_tenant: self.per_tenant, total }
    }

    /// Begins with a slash, and does not end with one, except for the root.
    pub(crate) fn prefix(&self) -> &str {
        if self.prefix == "/" { "" } else { &self.prefix }
    }
}

// === impl Total ===

impl fmt::Debug for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(total) => total.fmt(f),
            Self::Now(_) => f.write_str("Now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path() {
        for (given, prefix) in
            [("/-/answers", "/-/answers"), ("answers/", "/answers"), ("/", ""), ("", ""), ("/a b\r\n?#ä", "/ab")]
        {
            assert_eq!(Resumable::at(given).prefix(), prefix, "{given:?}");
        }
    }
}
