use std::time::Duration;

/// The units allowed in a period, and at once.
///
/// ```
/// use std::time::Duration;
/// use tower_buttress::Rate;
///
/// // One call a second, evenly spaced; after a quiet time five at once.
/// let rate = Rate::per_minute(60).burst(5);
/// assert_eq!(rate, Rate::new(60, Duration::from_secs(60)).burst(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    units: u64,
    per: Duration,
    burst: Option<u64>,
}

const MICROSECOND: Duration = Duration::from_micros(1);

// === impl Rate ===

impl Rate {
    /// Returns a rate of `units` per `per`; at least one, and at least a microsecond.
    #[must_use]
    pub const fn new(units: u64, per: Duration) -> Self {
        let units = if units == 0 { 1 } else { units };
        let per = if per.as_nanos() < MICROSECOND.as_nanos() { MICROSECOND } else { per };
        Self { units, per, burst: None }
    }

    /// Returns a rate of `units` a second.
    #[must_use]
    pub const fn per_second(units: u64) -> Self {
        Self::new(units, Duration::from_secs(1))
    }

    /// Returns a rate of `units` a minute.
    #[must_use]
    pub const fn per_minute(units: u64) -> Self {
        Self::new(units, Duration::from_secs(60))
    }

    /// Sets how many units may be taken at once after a quiet time.
    ///
    /// Default: for an upstream's limit 1: calls are evenly spaced, and no window of any length exceeds the rate. For a
    /// limit on callers all units.
    #[must_use]
    pub const fn burst(mut self, units: u64) -> Self {
        self.burst = Some(if units == 0 { 1 } else { units });
        self
    }

    /// The units allowed in each [`per`](Self::per).
    #[must_use]
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// The period.
    #[must_use]
    pub const fn per(&self) -> Duration {
        self.per
    }

    /// Sets the burst to `units`, unless it is set.
    pub(crate) fn or_burst(self, units: u64) -> Self {
        Self { burst: self.burst.or(Some(units.max(1))), ..self }
    }

    pub(super) fn at_once(&self) -> u64 {
        self.burst.unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_was_set_stays() {
        let rate = Rate::per_minute(60);
        assert_eq!((rate.at_once(), rate.or_burst(5).at_once(), rate.burst(2).or_burst(5).at_once()), (1, 5, 2));
        assert_eq!((rate.or_burst(0).at_once(), rate.burst(0).at_once()), (1, 1));
        assert_eq!((Rate::per_second(3).units(), Rate::per_second(3).per()), (3, Duration::from_secs(1)));
        let least = Rate::new(0, Duration::ZERO);
        assert_eq!((least.units(), least.per()), (1, MICROSECOND));
        assert_eq!(Rate::new(7, MICROSECOND).per(), MICROSECOND);
        assert_eq!(rate.or_burst(5).units(), 60);
    }
}
