//! Reads when a server wants to be tried again, and whether.
//!
//! | Field | Value | Sent by |
//! |---|---|---|
//! | `retry-after-ms` | milliseconds | OpenAI, Azure |
//! | `x-ms-retry-after-ms` | milliseconds | Azure |
//! | `Retry-After` | seconds, or an HTTP-date in any of its three forms (RFC 9110 10.2.3, 5.6.7) | most servers |
//! | `x-should-retry` | `true`, `false` | OpenAI, Anthropic |
//!
//! The first field with a valid value counts, in this order; of several lines of one field the longest wait. A number may
//! have a fraction, which some servers send and the SDKs accept. Any other value (a sign, `inf`, `1e3`, an empty or
//! broken value) counts as absent; a value that is too large becomes the longest wait.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use http::{HeaderMap, HeaderValue};
//! use tower_buttress::proto::retry_after::retry_after;
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("date", HeaderValue::from_static("Sun, 06 Nov 1994 08:49:30 GMT"));
//! headers.insert("retry-after", HeaderValue::from_static("Sunday, 06-Nov-94 08:49:37 GMT"));
//!
//! // Counted on the server's own clock, whatever ours says:
//! let hint = retry_after(&headers).unwrap();
//! assert_eq!(hint.wait(SystemTime::now()), Duration::from_secs(7));
//! ```

use std::time::{Duration, SystemTime};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::http_date::HttpDate;

/// How long a server asked to be left alone: at least a delay, and at least until an instant on the wall clock.
///
/// A date that came with a valid `Date` is already a delay; without one, [`wait`](Self::wait) converts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryAfter {
    delay: Duration,
    until: Option<HttpDate>,
    /// Found in a text for people.
    advice: bool,
}

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_MS_RETRY_AFTER_MS: HeaderName = HeaderName::from_static("x-ms-retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Returns when the server wants to be tried again; `None` without a valid value.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<RetryAfter> {
    longest(headers, &RETRY_AFTER_MS, |value| number(value, MILLISECOND).map(RetryAfter::from))
        .or_else(|| longest(headers, &X_MS_RETRY_AFTER_MS, |value| number(value, MILLISECOND).map(RetryAfter::from)))
        .or_else(|| longest(headers, &RETRY_AFTER, |value| seconds_or_date(value, headers)))
}

/// Returns whether the server asks for a retry or forbids it. If it says both, it forbids it.
#[must_use]
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    let mut asked = None;
    for value in headers.get_all(X_SHOULD_RETRY) {
        match trim(value) {
            value if value.eq_ignore_ascii_case(b"false") => return Some(false),
            value if value.eq_ignore_ascii_case(b"true") => asked = Some(true),
            _ => {}
        }
    }
    asked
}

/// Whether clients try again by themselves after such an answer.
pub(crate) fn is_retried(status: StatusCode, headers: &HeaderMap) -> bool {
    use StatusCode as Is;
    should_retry(headers).unwrap_or_else(|| {
        status.is_server_error()
            || matches!(status, Is::REQUEST_TIMEOUT | Is::CONFLICT | Is::TOO_EARLY | Is::TOO_MANY_REQUESTS)
    })
}

/// Forbids the caller to retry.
pub(crate) fn forbid_retry(headers: &mut HeaderMap) {
    headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
}

fn longest(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: impl Fn(&HeaderValue) -> Option<RetryAfter>,
) -> Option<RetryAfter> {
    headers.get_all(name).iter().filter_map(parse).reduce(RetryAfter::and)
}

fn seconds_or_date(value: &HeaderValue, headers: &HeaderMap) -> Option<RetryAfter> {
    if let Some(delay) = number(value, SECOND) {
        return Some(delay.into());
    }
    let until = date(value)?;
    Some(match headers.get(DATE).and_then(date) {
        Some(sent) => until.since(sent).into(),
        None => RetryAfter { until: Some(until), ..RetryAfter::default() },
    })
}

fn number(value: &HeaderValue, unit: Duration) -> Option<Duration> {
    decimal(trim(value), unit)
}

/// Reads `digits [ "." digits ]`, in units. Checked before parsing: Rust reads `+5` as a `u64`, and `inf`, `NaN` and
/// `1e3` as an `f64`. A value that is too large becomes the longest duration.
pub(crate) fn decimal(text: &[u8], unit: Duration) -> Option<Duration> {
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b"0"[..]),
    };
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    // A `Duration` is no finer than nanoseconds.
    let nine = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let billionths = nine.fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));

    let units = |count: u64| u128::from(count) * unit.as_nanos();
    let nanos = units(whole) + units(billionths) / 1_000_000_000;
    let part = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
    let seconds = Duration::from_secs(part(nanos / 1_000_000_000));
    Some(seconds.saturating_add(Duration::from_nanos(part(nanos % 1_000_000_000))))
}

fn date(value: &HeaderValue) -> Option<HttpDate> {
    HttpDate::parse(value.to_str().ok()?)
}

/// Trims the optional white space of RFC 9110 5.6.3, which an HTTP parser removes, but a map filled by hand may contain.
fn trim(value: &HeaderValue) -> &[u8] {
    value.as_bytes().trim_ascii()
}

// === impl RetryAfter ===

impl RetryAfter {
    /// Returns the wait from `now` on the wall clock. A past instant means no wait.
    #[must_use]
    pub fn wait(self, now: SystemTime) -> Duration {
        let until = self.until.and_then(|until| until.instant(now)?.duration_since(now).ok());
        until.map_or(self.delay, |left| left.max(self.delay))
    }

    /// A wait from a message for people. It may lengthen a wait, and never shortens one.
    #[must_use]
    pub const fn advice(delay: Duration) -> Self {
        Self { delay, until: None, advice: true }
    }

    /// Whether it is [advice](Self::advice) only.
    #[must_use]
    pub const fn is_advice(self) -> bool {
        self.advice
    }

    /// The longer wait of both.
    fn and(self, other: Self) -> Self {
        let until = match (self.until, other.until) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other),
        };
        Self { delay: self.delay.max(other.delay), until, advice: self.advice && other.advice }
    }
}

impl From<Duration> for RetryAfter {
    fn from(delay: Duration) -> Self {
        Self { delay, until: None, advice: false }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    /// 2026-11-20 12:00:00 GMT, a Friday.
    const NOW_UNIX: u64 = 1_795_176_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW_UNIX)
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    fn wait(lines: &[(&str, &str)]) -> Option<Duration> {
        retry_after(&map(lines)).map(|hint| hint.wait(now()))
    }

    const fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn hints_are_read_in_their_order() {
        let all = [("retry-after", "9"), ("x-ms-retry-after-ms", "200"), ("retry-after-ms", "100")];
        assert_eq!(wait(&all), ms(100));
        assert_eq!(wait(&all[..2]), ms(200));
        assert_eq!(wait(&all[..1]), ms(9_000));
        assert_eq!(wait(&[]), None);
        // A malformed line does not hide a valid one.
        assert_eq!(wait(&[("retry-after-ms", "soon"), ("retry-after", "9")]), ms(9_000));
    }

    #[test]
    fn what_is_malformed_is_absent() {
        for bad in
            ["", " ", "+5", "-5", "-0", "inf", "NaN", "1e3", "0x10", "5s", "5 6", "1.", ".5", "1.2.3", "٣", "1_0"]
        {
            assert_eq!(wait(&[("retry-after", bad)]), None, "{bad:?}");
            assert_eq!(wait(&[("retry-after-ms", bad)]), None, "{bad:?}");
        }
        for bad in ["Fri, 32 Nov 2026 12:00:30 GMT", "Fri, 20 Nov 2026 12:00:30"] {
            assert_eq!(wait(&[("retry-after", bad)]), None, "{bad:?}");
        }
    }

    #[test]
    fn a_fraction_counts() {
        assert_eq!(wait(&[("retry-after", " 1.5 ")]), ms(1_500));
        assert_eq!(wait(&[("retry-after-ms", "0.25")]), Some(Duration::from_micros(250)));
        assert_eq!(wait(&[("retry-after", "0.9999999999999")]), Some(Duration::from_nanos(999_999_999)));
    }

    #[test]
    fn what_is_too_large_is_the_longest_wait() {
        let nines = "9".repeat(400);
        let longest = Duration::from_secs(u64::MAX);
        assert!(wait(&[("retry-after", &nines)]).unwrap() >= longest);
        assert!(wait(&[("retry-after", &format!("{}.9", u64::MAX))]).unwrap() >= longest);
        assert!(wait(&[("retry-after-ms", &nines)]).unwrap() >= longest / 1_001);
    }

    #[test]
    fn of_several_lines_the_longest_counts() {
        assert_eq!(wait(&[("retry-after", "3"), ("retry-after", "7"), ("retry-after", "-9")]), ms(7_000));
        let date = "Fri, 20 Nov 2026 12:00:30 GMT";
        assert_eq!(wait(&[("retry-after", date), ("retry-after", "7")]), ms(30_000));
        assert_eq!(wait(&[("retry-after", "70"), ("retry-after", date)]), ms(70_000));
        let later = "Fri, 20 Nov 2026 12:00:40 GMT";
        assert_eq!(wait(&[("retry-after", date), ("retry-after", later)]), ms(40_000));
        assert_eq!(wait(&[("retry-after", later), ("retry-after", date)]), ms(40_000));
    }

    #[test]
    fn all_three_date_forms_are_read() {
        for date in ["Fri, 20 Nov 2026 12:00:30 GMT", "Friday, 20-Nov-26 12:00:30 GMT", "Fri Nov 20 12:00:30 2026"] {
            assert_eq!(wait(&[("retry-after", date)]), ms(30_000), "{date}");
        }
    }

    #[test]
    fn a_date_with_a_wrong_weekday_or_a_second_sixty_is_read() {
        assert_eq!(wait(&[("retry-after", "Mon, 20 Nov 2026 12:00:30 GMT")]), ms(30_000));
        assert_eq!(wait(&[("retry-after", "Fri, 20 Nov 2026 12:00:60 GMT")]), ms(60_000));
    }

    #[test]
    fn a_date_counts_from_the_servers_own() {
        let retry = ("retry-after", "Wed, 01 Jan 2020 00:00:30 GMT");
        assert_eq!(wait(&[retry, ("date", "Wed, 01 Jan 2020 00:00:00 GMT")]), ms(30_000));
        assert_eq!(wait(&[retry, ("date", "yesterday")]), ms(0));
        assert_eq!(wait(&[retry]), ms(0), "it has passed");
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        let passed = |wait: Option<Duration>| wait == ms(0);
        assert!(passed(wait(&[("retry-after", "Sunday, 06-Nov-94 08:49:37 GMT")])));
        assert!(passed(wait(&[("retry-after", "Friday, 20-Nov-76 12:00:01 GMT")])), "50 years and a second: 1976");
        assert!(wait(&[("retry-after", "Friday, 20-Nov-76 12:00:00 GMT")]).unwrap() > SECOND * 31_536_000 * 49);
        // Both as the server writes them.
        let sent = ("date", "Thursday, 31-Dec-99 23:59:50 GMT");
        assert_eq!(wait(&[("retry-after", "Friday, 01-Jan-00 00:00:09 GMT"), sent]), ms(19_000));
    }

    #[test]
    fn should_retry_is_obeyed_and_no_wins() {
        let say = |values: &[&str]| {
            let lines: Vec<_> = values.iter().map(|value| ("x-should-retry", *value)).collect();
            should_retry(&map(&lines))
        };
        assert_eq!(say(&["true"]), Some(true));
        assert_eq!(say(&["False "]), Some(false));
        assert_eq!(say(&["true", "false"]), Some(false));
        assert_eq!(say(&["1"]), None);
        assert_eq!(say(&[]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(value in proptest::collection::vec(any::<u8>(), 0..64), date in ".*", now in any::<u64>()) {
            let mut headers = HeaderMap::new();
            for name in [&RETRY_AFTER_MS, &X_MS_RETRY_AFTER_MS, &RETRY_AFTER, &X_SHOULD_RETRY] {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(name, value);
                }
            }
            if let Ok(value) = HeaderValue::from_str(&date) {
                headers.append(DATE, value);
            }
            let now = UNIX_EPOCH.checked_add(Duration::from_secs(now)).unwrap_or(UNIX_EPOCH);
            let _ = retry_after(&headers).map(|hint| hint.wait(now));
            let _ = should_retry(&headers);
        }

        #[test]
        fn every_whole_number_is_read(secs in any::<u64>()) {
            prop_assert_eq!(wait(&[("retry-after", &secs.to_string())]), Some(Duration::from_secs(secs)));
            prop_assert_eq!(wait(&[("retry-after-ms", &secs.to_string())]), ms(secs));
        }

        #[test]
        fn every_date_is_read_in_all_its_forms(ahead in 0..40 * 31_556_952_u64, fractions in 0..1_000_u32) {
            let at = now() + Duration::from_secs(ahead);
            let imf = httpdate::fmt_http_date(at);
            let [day, mon, year, time] = [&imf[5..7], &imf[8..11], &imf[12..16], &imf[17..25]];
            let long = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
            let long = long.iter().find(|long| long.starts_with(&imf[..3])).unwrap();
            let rfc850 = format!("{long}, {day}-{mon}-{} {time} GMT", &year[2..]);
            let asctime = format!("{} {mon} {:>2} {time} {year}", &imf[..3], day.trim_start_matches('0'));
            let asked = now() - Duration::from_millis(u64::from(fractions));
            for form in [imf.as_str(), &rfc850, &asctime] {
                let hint = retry_after(&map(&[("retry-after", form)])).unwrap();
                prop_assert_eq!(hint.wait(asked), at.duration_since(asked).unwrap(), "{}", form);
            }
        }
    }
}
