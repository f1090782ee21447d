//! Reads the rate limits that an answer reports.
//!
//! | Fields | Sent by |
//! |---|---|
//! | `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, also with `-day` or `-minute` behind them | OpenAI and its family, Groq, Azure, Cerebras, Mistral |
//! | `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}` | Anthropic |
//! | `X-RateLimit-{Limit,Remaining,Reset}`, `RateLimit-{Limit,Remaining,Reset}` | `OpenRouter`, GitHub, older IETF drafts |
//! | `RateLimit`, `RateLimit-Policy` | the IETF draft, here by its revision 11 |
//!
//! The form of a reset decides how it is read: with letters as a duration in Go's format (`1h2m3.5s`, `120ms`), with `T`
//! and an offset as a date of RFC 3339, as a number above 10^12 as Unix time in milliseconds, above 10^9 as Unix time in
//! seconds, else as seconds. A value in no valid form (a sign, `inf`, `1e3`) counts as absent.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use http::{HeaderMap, HeaderValue};
//! use tower_buttress::proto::rate_limit::{Unit, quotas};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("x-ratelimit-limit-tokens", HeaderValue::from_static("160000"));
//! headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from_static("159976"));
//! headers.insert("x-ratelimit-reset-tokens", HeaderValue::from_static("9ms"));
//!
//! let quotas = quotas(&headers, SystemTime::now());
//! assert_eq!((quotas[0].unit, quotas[0].remaining), (Unit::Tokens, Some(159_976)));
//! assert_eq!(quotas[0].reset.unwrap().after, Duration::from_millis(9));
//! ```

use std::time::{Duration, SystemTime};

use http::header::DATE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::http_date::HttpDate;

pub(crate) use self::write::{Policy, limits, policies};

mod write;

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens, of prompts and of answers together.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of answers.
    OutputTokens,
}

/// One limit, as an answer reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// The unit.
    pub unit: Unit,
    /// The window of the limit, if the answer names one.
    pub window: Option<Duration>,
    /// The number of units allowed.
    pub limit: Option<u64>,
    /// The number of units left.
    pub remaining: Option<u64>,
    /// When all units are available again.
    pub reset: Option<Reset>,
}

/// When a limit resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reset {
    /// The time until then.
    pub after: Duration,
    /// The smallest step of its sender: a sender that counts in seconds reports 20 ms as `1`.
    pub resolution: Duration,
}

/// One field's part of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuotaPart {
    Limit,
    Remaining,
    Reset,
}

pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// More than any real sender uses: it bounds the cost of foreign headers.
const MOST: usize = 16;

/// Reads the limits in `headers`, at most 16. Without any, it allocates nothing.
///
/// `now` is the time of day, for resets that are dates; if the answer has a `Date`, the sender's clock counts.
#[must_use]
pub fn quotas(headers: &HeaderMap, now: SystemTime) -> Vec<Quota> {
    let mut quotas = Vec::new();
    for (name, value) in headers {
        if let Some((part, unit, window)) = field(name.as_str()) {
            read(part, value, headers, now, quota(&mut quotas, unit, window));
        }
    }
    read_draft(headers, &mut quotas);
    quotas.retain(|quota| quota.limit.is_some() || quota.remaining.is_some() || quota.reset.is_some());
    quotas
}

/// Returns how long to wait: the longest reset of the exhausted limits.
#[must_use]
pub fn exhausted(quotas: &[Quota]) -> Option<Duration> {
    let spent = quotas.iter().filter(|quota| quota.remaining == Some(0));
    spent.filter_map(|quota| quota.reset).map(|reset| reset.after).max()
}

/// Returns the quota of this kind, and adds it if absent. Beyond the limit, returns one that will be dropped.
fn quota(quotas: &mut Vec<Quota>, unit: Unit, window: Option<Duration>) -> Option<&mut Quota> {
    let found = quotas.iter().position(|quota| quota.unit == unit && quota.window == window);
    let index = found.or_else(|| {
        (quotas.len() < MOST).then(|| {
            quotas.push(Quota { unit, window, limit: None, remaining: None, reset: None });
            quotas.len() - 1
        })
    })?;
    quotas.get_mut(index)
}

/// The part and the limit that a field reports. Names are in lower case here.
fn field(name: &str) -> Option<(QuotaPart, Unit, Option<Duration>)> {
    if let Some(rest) = name.strip_prefix("anthropic-ratelimit-") {
        let (rest, part) = rest.rsplit_once('-')?;
        return Some((QuotaPart::of(part)?, Unit::of(rest)?, None));
    }
    let rest = name
        .strip_prefix("x-ratelimit-")
        .or_else(|| name.strip_prefix("ratelimit-"))
        .or_else(|| name.strip_prefix("ratelimitbysize-"))?;
    let (part, what) = rest.split_once('-').unwrap_or((rest, "requests"));
    let windows = [("-minute", MINUTE), ("-day", DAY)];
    let named = windows.iter().find_map(|(suffix, window)| Some((what.strip_suffix(suffix)?, *window)));
    let (what, window) = named.map_or((what, None), |(what, window)| (what, Some(window)));
    Some((QuotaPart::of(part)?, Unit::of(what)?, window))
}

fn read(part: QuotaPart, value: &HeaderValue, headers: &HeaderMap, now: SystemTime, quota: Option<&mut Quota>) {
    let (Some(quota), Ok(text)) = (quota, value.to_str()) else { return };
    let text = text.trim_ascii();
    match part {
        QuotaPart::Limit => quota.limit = quota.limit.or(integer(text)),
        QuotaPart::Remaining => quota.remaining = quota.remaining.or(integer(text)),
        QuotaPart::Reset => quota.reset = quota.reset.or_else(|| reset(text, headers, now)),
    }
}

fn integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn reset(text: &str, headers: &HeaderMap, now: SystemTime) -> Option<Reset> {
    let until = |unix: Duration| {
        let sent = headers.get(DATE).and_then(|date| HttpDate::parse(date.to_str().ok()?)?.instant(now));
        let at = SystemTime::UNIX_EPOCH.checked_add(unix)?;
        Some(at.duration_since(sent.unwrap_or(now)).unwrap_or_default())
    };
    if let Some((unix, resolution)) = rfc3339(text) {
        return Some(Reset { after: until(unix)?, resolution });
    }
    if text.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        let (after, resolution) = go_duration(text)?;
        return Some(Reset { after, resolution });
    }
    let (seconds, resolution) = decimal(text, SECOND)?;
    let (after, resolution) = match seconds.as_secs() {
        number @ 1_000_000_000_001.. => (until(Duration::from_millis(number))?, MILLISECOND),
        1_000_000_001.. => (until(seconds)?, resolution),
        _ => (seconds, resolution),
    };
    Some(Reset { after, resolution })
}

/// Reads `digits [ "." digits ]`, in units, and the worth of its last digit.
fn decimal(text: &str, unit: Duration) -> Option<(Duration, Duration)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = integer(whole)?;
    if text.contains('.') {
        integer(fraction)?;
    }
    // A `Duration` is no finer than nanoseconds.
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let billionths = digits.fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let nanos = unit.as_nanos().saturating_mul(u128::from(whole))
        + unit.as_nanos().saturating_mul(u128::from(billionths)) / 1_000_000_000;
    let part = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
    let value = Duration::from_secs(part(nanos / 1_000_000_000))
        .saturating_add(Duration::from_nanos(part(nanos % 1_000_000_000)));
    let finest = u32::try_from(fraction.len()).unwrap_or(9).min(9);
    Some((value, unit / 10_u32.pow(finest)))
}

/// `1h2m3.5s`, `6m0s`, `120ms`: numbers with units, largest first or not.
fn go_duration(text: &str) -> Option<(Duration, Duration)> {
    let (mut sum, mut finest, mut rest) = (Duration::ZERO, Duration::MAX, text);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, behind) = rest.split_at(number);
        let units = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(units);
        let unit = match unit {
            "ns" => Duration::from_nanos(1),
            "us" | "µs" => Duration::from_micros(1),
            "ms" => MILLISECOND,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => 60 * MINUTE,
            "d" => DAY,
            _ => return None,
        };
        let (value, resolution) = decimal(digits, unit)?;
        // Whole minutes may be a duration in seconds that happen to be zero.
        (sum, finest, rest) = (sum.saturating_add(value), finest.min(resolution).min(SECOND), behind);
    }
    (finest != Duration::MAX).then_some((sum, finest))
}

/// Reads a date of RFC 3339 as the time since 1970, and the worth of its last digit. A leap second counts as the next
/// second.
fn rfc3339(text: &str) -> Option<(Duration, Duration)> {
    let (date, time) = text.split_once(['T', 't'])?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(clock, ':')?;
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || !(1970..=9999).contains(&year) {
        return None;
    }
    let of_day = hour * 3600 + minute * 60 + second;
    let local = days_since_1970(year, month, day) * 86_400 + of_day;
    let unix = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => local,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = integer(hours)?.checked_mul(3600)?.checked_add(integer(minutes)?.checked_mul(60)?)?;
            if sign == "+" { local.saturating_sub(offset) } else { local.checked_add(offset)? }
        }
    };
    let (fraction, resolution) = if fraction.is_empty() {
        (Duration::ZERO, SECOND)
    } else {
        decimal(&format!("0.{}", fraction.get(..9).unwrap_or(fraction)), SECOND)?
    };
    Some((Duration::from_secs(unix).saturating_add(fraction), resolution))
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let mut parts = text.split(separator).map(|part| if part.len() <= 4 { integer(part) } else { None });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// By eras of 400 years that begin in March, so that the leap day is the last of its year.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    days.saturating_sub(719_468)
}

/// `RateLimit: "burst";r=50;t=30` and `RateLimit-Policy: "burst";q=100;w=60;qu="requests"`.
fn read_draft(headers: &HeaderMap, quotas: &mut Vec<Quota>) {
    let lines = |name| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    for (name, parameters) in lines(RATE_LIMIT).flat_map(members).take(MOST) {
        let policy = lines(RATE_LIMIT_POLICY).flat_map(members).take(MOST).find(|(policy, _)| *policy == name);
        let of_policy = |key| policy.and_then(|(_, parameters)| parameter(parameters, key));
        let unit = match of_policy("qu").unwrap_or("requests") {
            "requests" => Unit::Requests,
            // Not a registered name, but in use.
            "tokens" => Unit::Tokens,
            _ => continue,
        };
        let window = of_policy("w").and_then(integer).map(Duration::from_secs);
        let remaining = parameter(parameters, "r").and_then(integer);
        let after = parameter(parameters, "t").and_then(integer).map(Duration::from_secs);
        if let Some(quota) = quota(quotas, unit, window) {
            quota.limit = quota.limit.or_else(|| of_policy("q").and_then(integer));
            quota.remaining = quota.remaining.or(remaining);
            quota.reset = quota.reset.or(after.map(|after| Reset { after, resolution: SECOND }));
        }
    }
}

/// The members of a structured-field list, each a name and its parameters.
fn members(line: &str) -> impl Iterator<Item = (&str, &str)> {
    pieces(line, ',').map(|member| {
        let end = pieces(member, ';').next().map_or(0, str::len);
        let (name, parameters) = member.split_at_checked(end).unwrap_or((member, ""));
        (name.trim_ascii().trim_matches('"'), parameters)
    })
}

fn parameter<'a>(parameters: &'a str, key: &str) -> Option<&'a str> {
    pieces(parameters, ';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        (name.trim_ascii() == key).then_some(value.trim_ascii().trim_matches('"'))
    })
}

/// Splits `text` at separators outside quotes.
fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

// === impl Unit ===

impl Unit {
    fn of(name: &str) -> Option<Self> {
        match name {
            "requests" => Some(Self::Requests),
            "tokens" => Some(Self::Tokens),
            "input-tokens" => Some(Self::InputTokens),
            "output-tokens" => Some(Self::OutputTokens),
            _ => None,
        }
    }
}

// === impl QuotaPart ===

impl QuotaPart {
    fn of(name: &str) -> Option<Self> {
        match name {
            "limit" => Some(Self::Limit),
            "remaining" => Some(Self::Remaining),
            "reset" => Some(Self::Reset),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-26 12:00:00 GMT, a Thursday.
    const NOW_UNIX: u64 = 1_795_694_400;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_UNIX)
    }

    fn read(lines: &[(&'static str, &str)]) -> Vec<Quota> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        quotas(&headers, now())
    }

    fn reset_of(text: &str) -> Option<(Duration, Duration)> {
        let quotas = read(&[("x-ratelimit-reset-requests", text)]);
        quotas.first()?.reset.map(|reset| (reset.after, reset.resolution))
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn each_provider_is_read() {
        let openai = read(&[
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", "4999"),
            ("x-ratelimit-reset-requests", "12ms"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        assert_eq!(openai.len(), 2);
        assert_eq!((openai[0].limit, openai[0].remaining), (Some(5000), Some(4999)));
        assert_eq!(exhausted(&openai), Some(Duration::from_secs(360)));

        let anthropic = read(&[
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "39000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-26T12:00:30Z"),
            ("anthropic-priority-input-tokens-limit", "1"),
        ]);
        assert_eq!(anthropic.len(), 1);
        assert_eq!(anthropic[0].unit, Unit::InputTokens);
        assert_eq!(anthropic[0].reset.unwrap().after, Duration::from_secs(30));

        let cerebras = read(&[
            ("x-ratelimit-limit-requests-day", "14400"),
            ("x-ratelimit-remaining-tokens-minute", "0"),
            ("x-ratelimit-reset-tokens-minute", "12.5"),
        ]);
        assert_eq!((cerebras[0].unit, cerebras[0].window), (Unit::Requests, Some(DAY)));
        assert_eq!((cerebras[1].unit, cerebras[1].window), (Unit::Tokens, Some(MINUTE)));
        assert_eq!(exhausted(&cerebras), Some(ms(12_500)));

        let github = read(&[("X-RateLimit-Reset", "1795694460"), ("x-ratelimit-remaining", "0")]);
        assert_eq!(exhausted(&github), Some(MINUTE));
    }

    #[test]
    fn a_reset_is_read_by_its_form() {
        for (text, after, resolution) in [
            ("1s", ms(1000), ms(1000)),
            ("6m0s", ms(360_000), ms(1000)),
            ("7.66s", ms(7660), ms(10)),
            ("120ms", ms(120), ms(1)),
            ("1h2m3s", ms(3_723_000), ms(1000)),
            ("2m59.56s", ms(179_560), ms(10)),
            ("1h", ms(3_600_000), ms(1000)),
            ("30", ms(30_000), ms(1000)),
            ("0", ms(0), ms(1000)),
            ("12.5", ms(12_500), ms(100)),
            ("1795694461", ms(61_000), ms(1000)),
            ("1795694400250", ms(250), ms(1)),
            ("1795694399", ms(0), ms(1000)),
            ("2026-11-26T12:01:00Z", ms(60_000), ms(1000)),
            ("2026-11-26T12:00:00.5Z", ms(500), ms(100)),
            ("2026-11-26T13:00:01+01:00", ms(1000), ms(1000)),
            ("2026-11-26T09:00:02-03:00", ms(2000), ms(1000)),
            ("2028-02-29T12:00:00Z", Duration::from_secs(460 * 86_400), ms(1000)),
        ] {
            assert_eq!(reset_of(text), Some((after, resolution)), "{text}");
        }
        for text in ["", "-1", "+5", "inf", "1e3", "NaN", "1x", "s", "1.s", "..", "2026-13-01T00:00:00Z", "T", "5 s"] {
            assert_eq!(reset_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_is_counted_on_the_senders_clock() {
        let quotas = read(&[
            ("date", "Thu, 26 Nov 2026 11:00:00 GMT"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-26T11:00:07Z"),
        ]);
        assert_eq!(exhausted(&quotas), Some(Duration::from_secs(7)));
    }

    #[test]
    fn what_is_negative_is_absent() {
        // As Azure sends them.
        let quotas = read(&[
            ("x-ratelimit-limit-tokens", "-1"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("x-ratelimit-reset-tokens", "0"),
        ]);
        assert_eq!((quotas[0].limit, quotas[0].remaining), (None, None));
        assert_eq!(exhausted(&quotas), None);
    }

    #[test]
    fn the_draft_is_read() {
        let quotas = read(&[
            ("ratelimit-policy", "\"burst\";q=100;w=60;qu=\"requests\", \"a,b;c\";q=9;w=86400"),
            ("ratelimit", "\"burst\";r=50;t=30, \"a,b;c\";r=0;t=4000"),
        ]);
        assert_eq!(quotas.len(), 2);
        let expected = Quota {
            unit: Unit::Requests,
            window: Some(MINUTE),
            limit: Some(100),
            remaining: Some(50),
            reset: Some(Reset { after: Duration::from_secs(30), resolution: SECOND }),
        };
        assert_eq!(quotas[0], expected);
        assert_eq!(exhausted(&quotas), Some(Duration::from_secs(4000)));
    }

    proptest! {
        #[test]
        fn anything_may_stand_in_the_fields(lines in proptest::collection::vec(("[ -~]{0,40}", 0..6_usize), 0..40)) {
            let names = [
                "x-ratelimit-reset-requests",
                "x-ratelimit-limit-tokens",
                "anthropic-ratelimit-requests-reset",
                "ratelimit",
                "ratelimit-policy",
                "ratelimit-reset",
            ];
            let lines: Vec<_> = lines.iter().map(|(value, name)| (names[*name], value.as_str())).collect();
            prop_assert!(read(&lines).len() <= MOST);
        }

        #[test]
        fn what_go_writes_is_read(hours in 0..100_u64, minutes in 0..60_u64, millis in 0..60_000_u64) {
            let text = format!("{hours}h{minutes}m{}.{:03}s", millis / 1000, millis % 1000);
            let expected = ms(hours * 3_600_000 + minutes * 60_000 + millis);
            prop_assert_eq!(reset_of(&text), Some((expected, ms(1))));
        }
    }

    #[test]
    fn a_date_must_be_one() {
        for text in [
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-32T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "1969-01-01T00:00:00Z",
            "12026-01-01T00:00:00Z",
            "2026-01-01-01T00:00:00Z",
            "2026-01T00:00:00Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00.xZ",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
        let seconds = |text| rfc3339(text).map(|(unix, _)| unix.as_secs());
        assert_eq!(seconds("1970-01-01t00:00:60z"), Some(60), "a leap second is the one after it");
        assert_eq!(seconds("1970-12-31T23:59:59Z"), Some(365 * 86_400 - 1));
        assert_eq!(seconds("1970-01-01T10:00:00+02:30"), Some(7 * 3600 + 1800));
        assert_eq!(seconds("1970-01-01T10:00:00-02:30"), Some(12 * 3600 + 1800));
        assert_eq!(seconds("1970-01-01T00:00:00+01:00"), Some(0), "not before 1970");
        assert_eq!(
            rfc3339("1970-01-01T00:00:01.123456789123Z").unwrap(),
            (Duration::new(1, 123_456_789), Duration::from_nanos(1))
        );
    }

    #[test]
    fn numbers_are_decimals_and_their_last_digit_is_their_resolution() {
        let nanos = Duration::from_nanos;
        for (text, unit, value, resolution) in [
            ("7", SECOND, nanos(7_000_000_000), SECOND),
            ("0.5", MINUTE, nanos(30_000_000_000), 6 * SECOND),
            ("1.25", MILLISECOND, nanos(1_250_000), nanos(10_000)),
            ("0.123456789987", SECOND, nanos(123_456_789), nanos(1)),
        ] {
            assert_eq!(decimal(text, unit), Some((value, resolution)), "{text}");
        }
        for text in ["", ".", "1.", ".5", "1.2.3", "-1", "1e3"] {
            assert_eq!(decimal(text, SECOND), None, "{text}");
        }
        assert_eq!(integer("99999999999999999999999"), Some(u64::MAX));
    }

    #[test]
    fn each_unit_of_go_is_read() {
        for (text, after, resolution) in [
            ("3ns", Duration::from_nanos(3), Duration::from_nanos(1)),
            ("3us", Duration::from_micros(3), Duration::from_micros(1)),
            ("3µs", Duration::from_micros(3), Duration::from_micros(1)),
            ("3ms", ms(3), ms(1)),
            ("3s", 3 * SECOND, SECOND),
            ("3m", 3 * MINUTE, SECOND),
            ("3h", 180 * MINUTE, SECOND),
            ("3d", 3 * DAY, SECOND),
            ("1m3ms", MINUTE + ms(3), ms(1)),
        ] {
            assert_eq!(go_duration(text), Some((after, resolution)), "{text}");
        }
        assert_eq!((go_duration(""), go_duration("3"), go_duration("3x"), go_duration("s")), (None, None, None, None));
    }

    #[test]
    fn an_instant_differs_from_a_duration_by_its_size() {
        let after = |text| reset_of(text).map(|(after, _)| after);
        assert_eq!(after("1000000000"), Some(Duration::from_secs(1_000_000_000)));
        assert_eq!(after("1000000001"), Some(Duration::ZERO), "in 2001");
        assert_eq!(after("1000000000000"), Some(Duration::from_secs(1_000_000_000_000 - NOW_UNIX)), "in seconds");
        assert_eq!(after("1000000000001"), Some(Duration::ZERO), "in milliseconds");
        assert_eq!(after("1795694401.5"), Some(ms(1_500)));
    }

    #[test]
    fn the_names_of_limits_are_read() {
        let day = Some(DAY);
        for (name, part, unit, window) in [
            ("x-ratelimit-limit-requests", QuotaPart::Limit, Unit::Requests, None),
            ("x-ratelimit-remaining", QuotaPart::Remaining, Unit::Requests, None),
            ("ratelimit-reset", QuotaPart::Reset, Unit::Requests, None),
            ("ratelimitbysize-remaining", QuotaPart::Remaining, Unit::Requests, None),
            ("x-ratelimit-limit-tokens-minute", QuotaPart::Limit, Unit::Tokens, Some(MINUTE)),
            ("x-ratelimit-limit-tokens-day", QuotaPart::Limit, Unit::Tokens, day),
            ("anthropic-ratelimit-output-tokens-reset", QuotaPart::Reset, Unit::OutputTokens, None),
            ("anthropic-ratelimit-requests-limit", QuotaPart::Limit, Unit::Requests, None),
        ] {
            let read = field(name).unwrap();
            assert_eq!((read.0 as u8, read.1, read.2), (part as u8, unit, window), "{name}");
        }
        for name in [
            "x-ratelimit-limit-images",
            "x-ratelimit-used",
            "anthropic-ratelimit-limit",
            "anthropic-ratelimit-x-limit",
            "date",
        ] {
            assert!(field(name).is_none(), "{name}");
        }
    }

    #[test]
    fn of_two_lines_the_first_counts_and_of_many_limits_some() {
        let quotas = read(&[
            ("x-ratelimit-limit-requests", "5"),
            ("x-ratelimit-limit-requests", "6"),
            ("x-ratelimit-remaining-requests", "1"),
            ("x-ratelimit-remaining-requests", "2"),
            ("x-ratelimit-reset-requests", "3s"),
            ("x-ratelimit-reset-requests", "4s"),
        ]);
        let reset = Some(Reset { after: 3 * SECOND, resolution: SECOND });
        assert_eq!(quotas, [Quota { unit: Unit::Requests, window: None, limit: Some(5), remaining: Some(1), reset }]);
        let many: Vec<String> = (0..40).map(|n| format!("\"{n}\";q=1;w={n}")).collect();
        let limits: Vec<String> = (0..40).map(|n| format!("\"{n}\";r=1;t=1")).collect();
        let quotas = read(&[("ratelimit-policy", &many.join(",")), ("ratelimit", &limits.join(","))]);
        assert_eq!(quotas.len(), MOST);
    }

    #[test]
    fn a_policy_of_another_unit_is_no_limit_of_requests() {
        let quotas = read(&[
            ("ratelimit-policy", "\"t\";q=9;qu=\"tokens\", \"b\";q=8;qu=\"bytes\""),
            ("ratelimit", "\"t\";r=3;t=1, \"b\";r=0;t=1, \"u\";r=4;t=2"),
        ]);
        let read: Vec<_> = quotas.iter().map(|quota| (quota.unit, quota.limit, quota.remaining)).collect();
        assert_eq!(read, [(Unit::Tokens, Some(9), Some(3)), (Unit::Requests, None, Some(4))]);
    }

    #[test]
    fn days_are_counted_as_in_a_calendar() {
        let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let mut days = 0;
        for year in 1970..2500 {
            let february = if is_leap(year) { 29 } else { 28 };
            for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                assert_eq!(days_since_1970(year, month, 1), days, "{year}-{month}");
                assert_eq!(days_since_1970(year, month, length), days + length - 1, "{year}-{month}-{length}");
                days += length;
            }
        }
    }

    #[test]
    fn a_separator_in_quotes_is_none() {
        let of = |text| pieces(text, ',').collect::<Vec<_>>();
        assert_eq!(of("a,\"b,c\",d"), ["a", "\"b,c\"", "d"]);
        assert_eq!(of("\"a\",b"), ["\"a\"", "b"]);
        assert_eq!(of(""), [""]);
        let named = |line| members(line).collect::<Vec<_>>();
        assert_eq!(named("\"a;b\";r=1, c"), [("a;b", ";r=1"), ("c", "")]);
        assert_eq!((parameter(";r=1; t=\"2\"", "t"), parameter(";r=1", "t")), (Some("2"), None));
    }
}
