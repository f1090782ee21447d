use std::time::{Duration, Instant};

/// The farthest instant that can be told where `now + time` cannot be.
pub(crate) fn saturating_add(now: Instant, time: Duration) -> Instant {
    // Thirty years: what tokio takes for "far in the future".
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    now.checked_add(time).or_else(|| now.checked_add(FAR)).unwrap_or(now)
}
