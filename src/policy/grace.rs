//! Extends a wait whose timer fired late.

use std::time::Duration;

/// A woken task runs much sooner than this, unless the process was suspended or starved. Data that arrived meanwhile is
/// then still in the socket: the timers fire first, since a suspended `epoll_wait` returns without events.
const LATE: Duration = Duration::from_millis(100);
/// Long enough to read a socket, and to forward its data.
const GRACE: Duration = Duration::from_millis(50);

/// After this long a machine has to restore its memory and its connections.
const VERY_LATE: Duration = Duration::from_secs(5);
const LONG_GRACE: Duration = Duration::from_millis(500);

/// Returns the extension of a wait whose timer fired this late; `None` if it was in time, and the wait is over.
pub(crate) fn grace(late: Duration) -> Option<Duration> {
    if late > VERY_LATE {
        Some(LONG_GRACE)
    } else if late > LATE {
        Some(GRACE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_it_is_found_the_longer_it_is() {
        let found = |millis| grace(Duration::from_millis(millis)).map(|grace| grace.as_millis());
        for (late, expected) in
            [(0, None), (100, None), (101, Some(50)), (5_000, Some(50)), (5_001, Some(500)), (86_400_000, Some(500))]
        {
            assert_eq!(found(late), expected, "{late} ms");
        }
    }
}
