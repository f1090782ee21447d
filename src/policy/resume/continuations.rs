//! Decides whether and when the layer asks for another continuation.

use std::time::Duration;

use fastrand::Rng;

use super::NotResumed;
use crate::policy::backoff::Backoff;
use crate::policy::verdict::NextStep;

/// The continuations of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Continuations {
    most: u32,
    /// Continuations since the last new event.
    without_progress: u32,
}

/// A stream that broke, or a failed request for the rest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cut {
    /// The next step for the upstream's error, if it reported one.
    pub(crate) advised: Option<NextStep>,
    /// The wait that the upstream asked for.
    pub(crate) retry_after: Option<Duration>,
    /// The remaining time of the call's deadline.
    pub(crate) remaining: Option<Duration>,
}

/// A caller with half an answer does not wait longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

// === impl Continuations ===

impl Continuations {
    pub(crate) const fn new(most: u32) -> Self {
        Self { most, without_progress: 0 }
    }

    /// Returns the wait before the next request for the rest. Most streams break alone, so the first request does not
    /// wait.
    pub(crate) fn next(&mut self, cut: &Cut, backoff: &Backoff, rng: &mut Rng) -> Result<Duration, NotResumed> {
        match cut.advised {
            None => {}
            // The stream would end with the same error again.
            Some(_) if self.without_progress > 0 => return Err(NotResumed::UpstreamFailed),
            Some(NextStep::Retry { .. }) => {}
            Some(_) => return Err(NotResumed::UpstreamFailed),
        }
        if self.without_progress >= self.most {
            return Err(NotResumed::NoProgress);
        }
        let own = match self.without_progress {
            0 => Duration::ZERO,
            failed => backoff.wait(failed - 1, Duration::ZERO, rng),
        };
        let wait = own.max(cut.retry_after.unwrap_or_default());
        if wait > MAX_RETRY_AFTER.max(own) {
            return Err(NotResumed::Refused);
        }
        if cut.remaining.is_some_and(|remaining| wait >= remaining) {
            return Err(NotResumed::Deadline);
        }
        self.without_progress += 1;
        Ok(wait)
    }

    /// Notes a new event.
    pub(crate) fn progressed(&mut self) {
        self.without_progress = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::backoff::Jitter;

    const S: Duration = Duration::from_secs(1);
    const BACKOFF: Backoff = Backoff { base: S, cap: Duration::from_secs(5), jitter: Jitter::None };

    fn next(continuations: &mut Continuations, cut: Cut) -> Result<Duration, NotResumed> {
        continuations.next(&cut, &BACKOFF, &mut Rng::with_seed(1))
    }

    #[test]
    fn three_in_a_row_bring_nothing_and_then_it_is_over() {
        let mut continuations = Continuations::new(3);
        let waits: Vec<_> = (0..4).map(|_| next(&mut continuations, Cut::default())).collect();
        assert_eq!(waits, [Ok(Duration::ZERO), Ok(S), Ok(2 * S), Err(NotResumed::NoProgress)]);
        continuations.progressed();
        assert_eq!(next(&mut continuations, Cut::default()), Ok(Duration::ZERO));
    }

    #[test]
    fn what_the_upstream_says_of_itself_is_believed() {
        let advised = |next| Cut { advised: Some(next), ..Cut::default() };
        let mut continuations = Continuations::new(3);
        assert_eq!(next(&mut continuations, advised(NextStep::GiveUp)), Err(NotResumed::UpstreamFailed));
        assert_eq!(next(&mut continuations, advised(NextStep::TryAnother)), Err(NotResumed::UpstreamFailed));
        assert_eq!(next(&mut continuations, advised(NextStep::retry(None))), Ok(Duration::ZERO));
        assert_eq!(next(&mut continuations, advised(NextStep::retry(None))), Err(NotResumed::UpstreamFailed), "again");
    }

    #[test]
    fn a_wait_fits_into_the_call() {
        let after = |wait, remaining| Cut { retry_after: Some(wait), remaining, ..Cut::default() };
        let mut continuations = Continuations::new(9);
        assert_eq!(next(&mut continuations, after(5 * S, None)), Ok(5 * S));
        assert_eq!(next(&mut continuations, after(31 * S, None)), Err(NotResumed::Refused));
        assert_eq!(next(&mut continuations, after(5 * S, Some(5 * S))), Err(NotResumed::Deadline));
        let spent = Cut { remaining: Some(Duration::ZERO), ..Cut::default() };
        assert_eq!(next(&mut Continuations::new(9), spent), Err(NotResumed::Deadline));
    }
}
