//! Extends a wait whose end is noticed late, because the process was suspended or starved: data may be in its sockets
//! already.

use std::time::Duration;

use tokio::time::Instant;

/// A woken task runs within far less, unless the process was suspended or starved.
const LATE: Duration = Duration::from_millis(100);
/// Enough to read a socket.
const GRACE: Duration = Duration::from_millis(50);
/// After so long a pause, memory may be swapped out and connections may need time to recover.
const VERY_LATE: Duration = Duration::from_secs(5);
const LONG_GRACE: Duration = Duration::from_millis(500);

/// The new end of a wait that should have ended at `missed`; `None` if it was noticed in time.
pub(crate) fn put_off(missed: Instant) -> Option<Instant> {
    let now = Instant::now();
    let late = now.saturating_duration_since(missed);
    (late > LATE).then(|| now + if late > VERY_LATE { LONG_GRACE } else { GRACE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_found_late_is_put_off() {
        let missed = Instant::now();
        let grace = async |late: u64| {
            tokio::time::advance(missed + Duration::from_millis(late) - Instant::now()).await;
            put_off(missed).map(|until| until - Instant::now())
        };
        assert_eq!(grace(100).await, None);
        assert_eq!(grace(101).await, Some(GRACE));
        assert_eq!(grace(5_001).await, Some(LONG_GRACE));
    }
}
