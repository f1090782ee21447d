//! How the remaining time travels from service to service.
//!
//! All formats carry a *timeout* (how long), not a deadline (until when), since clocks differ.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A header that carries the remaining time of a call.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderName};
/// use tower_buttress::DeadlineHeader;
///
/// let header = DeadlineHeader::millis(HeaderName::from_static("x-deadline-ms"));
/// let mut headers = HeaderMap::new();
/// header.write(Duration::from_micros(1_500_900), &mut headers);
/// assert_eq!(headers["x-deadline-ms"], "1500");
/// assert_eq!(header.read(&headers), Ok(Some(Duration::from_millis(1500))));
///
/// assert_eq!(DeadlineHeader::grpc().to_value(Duration::from_secs(3)).unwrap(), "3000000u");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadlineHeader {
    name: HeaderName,
    format: Format,
}

/// A value that is not in the header's format, or too long for a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `1*8DIGIT` and one of `HMSmun`: "gRPC over HTTP/2", Requests, Timeout.
    Grpc,
    /// Whole milliseconds.
    Millis,
    /// Whole milliseconds; 0 means no limit.
    MillisOrInfinite,
    /// Seconds, read with a decimal fraction, written without.
    Seconds,
}

/// The units of `grpc-timeout`, finest first, with their length in nanoseconds.
const GRPC_UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];
const GRPC_MAX_VALUE: u128 = 99_999_999;

// === impl DeadlineHeader ===

impl DeadlineHeader {
    /// `grpc-timeout`, as gRPC clients send it.
    #[must_use]
    pub const fn grpc() -> Self {
        Self { name: HeaderName::from_static("grpc-timeout"), format: Format::Grpc }
    }

    /// `x-envoy-expected-rq-timeout-ms`, as Envoy's router sends it; an incoming 0 means no limit.
    #[must_use]
    pub const fn envoy() -> Self {
        Self { name: HeaderName::from_static("x-envoy-expected-rq-timeout-ms"), format: Format::MillisOrInfinite }
    }

    /// Any header in whole milliseconds.
    #[must_use]
    pub const fn millis(name: HeaderName) -> Self {
        Self { name, format: Format::Millis }
    }

    /// Any header in seconds. Read with a decimal fraction (`1.5`), written without, since not every server reads one:
    /// with less than one second left, nothing is written.
    #[must_use]
    pub const fn seconds(name: HeaderName) -> Self {
        Self { name, format: Format::Seconds }
    }

    /// The header's name.
    #[must_use]
    pub const fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Returns the remaining time in `headers`, `None` without a value (or with the value for no limit).
    ///
    /// If the header occurs more than once, the shortest valid value counts: a caller may shorten the time, never extend
    /// it. Zero is valid, and means that the time is over.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the header is present without a valid value.
    pub fn read(&self, headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
        let mut found = Ok(None);
        let mut shortest: Option<Option<Duration>> = None;
        for value in headers.get_all(&self.name) {
            match self.format.parse(value.as_bytes()) {
                // No limit is longer than any.
                Some(limit) => {
                    shortest = Some(match (shortest.flatten(), limit) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    });
                }
                None => found = Err(Malformed(())),
            }
        }
        if let Some(shortest) = shortest {
            found = Ok(shortest);
        }
        found
    }

    /// Writes the remaining time, and replaces the header. Returns `false`, and writes nothing, if it is less than the
    /// format's smallest unit: 0 is never sent.
    pub fn write(&self, left: Duration, headers: &mut HeaderMap) -> bool {
        let value = self.to_value(left);
        let worth_sending = value.is_some();
        if let Some(value) = value {
            headers.insert(self.name.clone(), value);
        }
        worth_sending
    }

    /// The smallest time that the format can express.
    pub(crate) const fn least(&self) -> Duration {
        match self.format {
            Format::Grpc => Duration::from_nanos(1),
            Format::Millis | Format::MillisOrInfinite => Duration::from_millis(1),
            Format::Seconds => Duration::from_secs(1),
        }
    }

    /// Returns the value for `left`, rounded down; `None` if that would be 0.
    #[must_use]
    pub fn to_value(&self, left: Duration) -> Option<HeaderValue> {
        match self.format {
            Format::Grpc => grpc_value(left),
            Format::Millis | Format::MillisOrInfinite => whole(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            Format::Seconds => whole(left.as_secs()),
        }
    }
}

fn whole(value: u64) -> Option<HeaderValue> {
    (value > 0).then(|| HeaderValue::from(value))
}

/// In the finest unit in which `left` fits eight digits.
fn grpc_value(left: Duration) -> Option<HeaderValue> {
    let nanos = left.as_nanos();
    let fits = |&&(_, unit): &&(u8, u128)| nanos / unit <= GRPC_MAX_VALUE;
    let (value, unit) = match GRPC_UNITS.iter().find(fits) {
        Some(&(name, unit)) => (nanos / unit, name),
        None => (GRPC_MAX_VALUE, b'H'),
    };
    if value == 0 {
        return None;
    }
    HeaderValue::try_from(format!("{value}{}", char::from(unit))).ok()
}

// === impl Format ===

impl Format {
    /// `None`: malformed. `Some(None)`: no limit.
    fn parse(self, value: &[u8]) -> Option<Option<Duration>> {
        let value = value.trim_ascii();
        match self {
            Self::Grpc => grpc(value).map(Some),
            Self::Millis => digits(value).map(|millis| Some(Duration::from_millis(millis))),
            Self::MillisOrInfinite => digits(value).map(|millis| (millis > 0).then(|| Duration::from_millis(millis))),
            Self::Seconds => seconds(value).map(Some),
        }
    }
}

fn grpc(value: &[u8]) -> Option<Duration> {
    let (unit, number) = value.split_last()?;
    if number.len() > 8 {
        return None;
    }
    let number = digits(number)?;
    let (_, nanos) = GRPC_UNITS.iter().find(|(name, _)| name == unit)?;
    // Eight digits of hours overflow nanoseconds in 64 bits, and fit 128.
    let nanos = u128::from(number) * nanos;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?))
}

fn seconds(value: &[u8]) -> Option<Duration> {
    let Some(point) = value.iter().position(|&byte| byte == b'.') else {
        return digits(value).map(Duration::from_secs);
    };
    let (whole, fraction) = (value.get(..point)?, value.get(point + 1..)?);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A `Duration` holds nanoseconds: further digits are dropped.
    let digit = |at: usize| fraction.get(at).map_or(0, |byte| u32::from(byte - b'0'));
    let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + digit(at));
    Some(Duration::new(digits(whole)?, nanos))
}

/// Only digits: Rust's own parser accepts a sign.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| number.checked_mul(10)?.checked_add(u64::from(byte - b'0')))
}

// === impl Malformed ===

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed deadline header")
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> Vec<DeadlineHeader> {
        vec![
            DeadlineHeader::grpc(),
            DeadlineHeader::envoy(),
            DeadlineHeader::millis(HeaderName::from_static("x-ms")),
            DeadlineHeader::seconds(HeaderName::from_static("x-s")),
        ]
    }

    fn read(header: &DeadlineHeader, values: &[&str]) -> Result<Option<Duration>, Malformed> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header.name(), HeaderValue::from_str(value).unwrap());
        }
        header.read(&headers)
    }

    #[test]
    fn each_format_reads_its_own() {
        let ms = |ms| Ok(Some(Duration::from_millis(ms)));
        let [grpc, envoy, millis, seconds] = headers().try_into().unwrap();
        assert_eq!(read(&grpc, &["1500m"]), ms(1500));
        assert_eq!(read(&grpc, &["2H"]), ms(7_200_000));
        assert_eq!(read(&grpc, &["99999999H"]), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        assert_eq!(read(&grpc, &["0n"]), ms(0));
        assert_eq!(read(&envoy, &["250"]), ms(250));
        assert_eq!(read(&envoy, &["0"]), Ok(None));
        assert_eq!(read(&millis, &["0"]), ms(0));
        assert_eq!(read(&seconds, &["2"]), ms(2000));
        assert_eq!(read(&seconds, &["2.05"]), ms(2050));
        for header in headers() {
            assert_eq!(header.read(&HeaderMap::new()), Ok(None));
        }
    }

    #[test]
    fn what_is_not_of_the_format_is_malformed() {
        let [grpc, envoy, millis, seconds] = headers().try_into().unwrap();
        for bad in ["", "5", "m", "+5m", "-5m", "5 m", "123456789m", "5x", "5.5S"] {
            assert_eq!(read(&grpc, &[bad]), Err(Malformed(())), "{bad:?}");
        }
        for header in [envoy, millis] {
            for bad in ["", "+5", "-1", "1e3", "1.5", "inf", "99999999999999999999"] {
                assert_eq!(read(&header, &[bad]), Err(Malformed(())), "{bad:?}");
            }
        }
        for bad in ["", ".5", "1.-5", "NaN", "1,5", "1.2.3"] {
            assert_eq!(read(&seconds, &[bad]), Err(Malformed(())), "{bad:?}");
        }
    }

    #[test]
    fn of_several_values_the_shortest_valid_one_counts() {
        let [_, envoy, millis, _] = headers().try_into().unwrap();
        assert_eq!(read(&millis, &["500", "junk", "200"]), Ok(Some(Duration::from_millis(200))));
        assert_eq!(read(&envoy, &["0", "200"]), Ok(Some(Duration::from_millis(200))));
    }

    #[test]
    fn zero_is_never_sent() {
        for (header, too_little) in headers().iter().zip([0, 999_999, 999_999, 999_999_999]) {
            assert_eq!(header.least(), Duration::from_nanos(too_little + 1));
            assert_eq!(header.to_value(Duration::from_nanos(too_little)), None);
            assert!(header.to_value(Duration::from_nanos(too_little + 1)).is_some());
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_never_more_than_what_is_left(left: Duration) {
            for header in headers() {
                let mut map = HeaderMap::new();
                if header.write(left, &mut map) {
                    // Every format keeps at least seven digits, or a second.
                    let said = header.read(&map).unwrap().unwrap();
                    prop_assert!(said <= left);
                    if left < Duration::from_secs(99_999_999 * 3600) {
                        prop_assert!(left - said < (left / 1_000_000).max(Duration::from_secs(1)));
                    }
                }
            }
        }

        #[test]
        fn nothing_from_the_peer_panics(value in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for header in headers() {
                    let mut map = HeaderMap::new();
                    map.insert(header.name(), value.clone());
                    let _ = header.read(&map);
                }
            }
        }
    }

    #[test]
    fn a_malformed_header_is_called_so() {
        assert_eq!(Malformed(()).to_string(), "malformed deadline header");
    }

    #[test]
    fn a_write_says_whether_it_was_made() {
        let (header, mut headers) = (DeadlineHeader::millis(HeaderName::from_static("x-left")), HeaderMap::new());
        assert!(header.write(Duration::from_millis(7), &mut headers));
        assert_eq!(headers["x-left"], "7");
        assert!(!header.write(Duration::from_micros(999), &mut headers));
        assert_eq!(headers["x-left"], "7", "nothing was written");
    }
}
