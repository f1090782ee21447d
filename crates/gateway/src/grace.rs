//! What a wait still has when its end is found late: the process was suspended or starved, and what came meanwhile is in its
//! sockets.

use std::time::Duration;

use tokio::time::Instant;

/// A task that is woken runs within far less than this, unless the process was suspended or starved.
const LATE: Duration = Duration::from_millis(100);
/// Long enough to read a socket.
const GRACE: Duration = Duration::from_millis(50);
/// After this long a machine has to find its memory and its connections again.
const VERY_LATE: Duration = Duration::from_secs(5);
const LONG_GRACE: Duration = Duration::from_millis(500);

/// Until when a wait is put off that should have ended at `missed`, where that is found late.
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
