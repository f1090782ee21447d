//! The clock of Redis, estimated from its replies.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The last reading: the local time, and Redis's time in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<(Instant, u64)>>);

/// A slower reply does not determine the time precisely enough.
const SURE: Duration = Duration::from_millis(50);

// === impl Clock ===

impl Clock {
    /// Records a reply that shows this many milliseconds, to a request sent at `sent`.
    pub(crate) fn note(&self, millis: u64, sent: Instant) {
        let took = sent.elapsed();
        if took <= SURE {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((sent + took / 2, millis));
        }
    }

    /// What Redis's clock shows at that time; `None`: unknown.
    pub(crate) fn at(&self, at: Instant) -> Option<u64> {
        let (noted, millis) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let between = |from: Instant, to: Instant| u64::try_from((to - from).as_millis()).ok();
        if at >= noted { millis.checked_add(between(noted, at)?) } else { millis.checked_sub(between(at, noted)?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_as_the_clock_here_does() {
        let (clock, start) = (Clock::default(), Instant::now());
        assert_eq!(clock.at(start), None);
        let ms = Duration::from_millis;
        tokio::time::advance(ms(40)).await;
        clock.note(1_000_000, start);
        assert_eq!(clock.at(start + ms(20)), Some(1_000_000));
        assert_eq!((clock.at(start), clock.at(start + ms(520))), (Some(999_980), Some(1_000_500)));
        // A late reply says nothing.
        tokio::time::advance(ms(20)).await;
        clock.note(7, start);
        assert_eq!(clock.at(start + ms(20)), Some(1_000_000));
    }
}
