//! The settings of answers that callers come back to.

use std::time::Duration;

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
    pub(super) window: Duration,
    pub(super) max_response: usize,
    pub(super) per_tenant: u32,
    pub(super) total: u32,
    pub(super) respond_async: bool,
}

// === impl Resumable ===

impl Resumable {
    /// Answers are at `<prefix>/<token>`. The prefix is a path, as the layer sees it and as callers write it: `/answers`.
    ///
    /// What is not a letter, a digit or one of `/-._~` is left out of it.
    #[must_use]
    pub fn at(prefix: &str) -> Self {
        let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "/-._~".contains(*letter);
        let path: String = prefix.chars().filter(is_plain).collect();
        Self {
            prefix: format!("/{}", path.trim_matches('/')),
            window: Duration::from_secs(5 * 60),
            max_response: 8 * 1024 * 1024,
            per_tenant: 8,
            total: 256,
            respond_async: false,
        }
    }

    /// How long a call goes on while no caller listens, and how long its answer can be read when it has ended. Default: 5
    /// minutes.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// The longest answer that can be come back to, in bytes. Default: 8 MiB. It counts in the
    /// [memory](crate::DedupLayer::memory) and in the store.
    #[must_use]
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.max_response = bytes;
        self
    }

    /// How many calls go on at a time while no caller listens: of one tenant, and in all. Beyond that, a call that its last
    /// caller leaves is kept for the [`grace`](crate::DedupLayer::grace) only, and `respond-async` is not applied. Default: 8
    /// and 256.
    #[must_use]
    pub fn unattended(mut self, per_tenant: u32, total: u32) -> Self {
        self.per_tenant = per_tenant;
        self.total = total;
        self
    }

    /// Whether `Prefer: respond-async` is applied. Default: no.
    #[must_use]
    pub fn respond_async(mut self, apply: bool) -> Self {
        self.respond_async = apply;
        self
    }

    /// Begins with a slash, and does not end with one, unless it is the root.
    pub(super) fn prefix(&self) -> &str {
        if self.prefix == "/" { "" } else { &self.prefix }
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
