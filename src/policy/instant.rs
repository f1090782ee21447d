use std::time::{Duration, Instant};

/// Returns `now + time`, or a far instant if that is out of range.
pub(crate) fn saturating_add(now: Instant, time: Duration) -> Instant {
    // Thirty years: tokio's "far in the future".
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    now.checked_add(time).or_else(|| now.checked_add(FAR)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_late_is_far() {
        let now = Instant::now();
        assert_eq!(saturating_add(now, Duration::from_secs(7)), now + Duration::from_secs(7));
        let far = saturating_add(now, Duration::MAX);
        assert_eq!(far - now, Duration::from_secs(86_400 * 365 * 30));
    }
}
