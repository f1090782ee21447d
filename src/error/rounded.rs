//! Durations as people read them.

use std::fmt;
use std::time::Duration;

/// A duration rounded for people, to about three digits.
pub(crate) struct Rounded(pub(crate) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(time) = *self;
        let unit = match time.as_micros() {
            0..10_000 => Duration::from_micros(1),
            10_000..1_000_000 => Duration::from_millis(1),
            1_000_000..60_000_000 => Duration::from_millis(100),
            _ => Duration::from_secs(1),
        };
        let units = time.as_nanos().saturating_add(unit.as_nanos() / 2) / unit.as_nanos();
        let rounded = u32::try_from(units).ok().and_then(|units| unit.checked_mul(units)).unwrap_or(time);
        fmt::Debug::fmt(&rounded, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded() {
        let shown = |nanos| Rounded(Duration::from_nanos(nanos)).to_string();
        assert_eq!(shown(1_234_567), "1.235ms");
        assert_eq!(shown(123_456_789), "123ms");
        assert_eq!(shown(1_234_567_891), "1.2s");
        assert_eq!(shown(83_961_234_567), "84s");
        assert_eq!([shown(0), shown(2_000_000_000), shown(500_000_000)], ["0ns", "2s", "500ms"]);
        assert_eq!(Rounded(Duration::MAX).to_string(), format!("{:?}", Duration::MAX));
    }
}
