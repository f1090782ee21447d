//! Time as a whole number, which a script in a shared store can compute with.

use std::time::Duration;

/// Microseconds: a duration, or an instant on a shared clock.
pub(crate) type Micros = u64;

/// Whole microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_microseconds() {
        assert_eq!(micros(Duration::from_millis(7)), 7_000);
        assert_eq!(micros(Duration::from_nanos(999)), 0);
        assert_eq!(micros(Duration::MAX), u64::MAX);
    }
}
