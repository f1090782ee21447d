//! Dates in headers (RFC 9110 5.6.7), in any of their three forms.
//!
//! Harmless mistakes of real servers are accepted: a wrong weekday, and a leap second that does not exist.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A date as sent. RFC 850's years have two digits: the instant depends on the reader's own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HttpDate {
    at: Civil,
    two_digit_year: bool,
}

/// A date and a time of day in UTC, most significant first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Civil {
    year: i64,
    month: u8,
    day: u8,
    /// Of the day: at most one more than a day has.
    second: u32,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY: i64 = 86_400;

// === impl HttpDate ===

impl HttpDate {
    /// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or `Sun Nov  6 08:49:37 1994`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((weekday, rest)) = text.trim().split_once(',') else { return Self::parse_asctime(text) };
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let (day, month, year, time) = match *words.as_slice() {
            [day, month, year, time, "GMT"] => (day, month, year, time),
            [date, time, "GMT"] => {
                let mut parts = date.splitn(3, '-');
                (parts.next()?, parts.next()?, parts.next()?, time)
            }
            _ => return None,
        };
        let two_digit_year = words.len() == 3;
        let year = number(year, if two_digit_year { 2 } else { 4 })?;
        is_word(weekday).then_some(())?;
        Some(Self { at: Civil::new(year, month, number(day, 2)?, time)?, two_digit_year })
    }

    fn parse_asctime(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [weekday, month, day, time, year] = *words.as_slice() else { return None };
        let day = number(day, day.len().clamp(1, 2))?;
        is_word(weekday).then_some(())?;
        Some(Self { at: Civil::new(number(year, 4)?, month, day, time)?, two_digit_year: false })
    }

    /// Returns the instant, read at `now`: of the years that end in the two digits, the latest that is not more than 50
    /// years ahead.
    pub(crate) fn instant(self, now: SystemTime) -> Option<SystemTime> {
        if !self.two_digit_year {
            return self.at.instant();
        }
        let now = Civil::of(now);
        let latest = Civil { year: now.year + 50, ..now };
        let century = now.year - now.year % 100;
        let candidates =
            [century + 100, century, century - 100].map(|century| Civil { year: century + self.at.year, ..self.at });
        candidates.into_iter().find(|at| *at <= latest)?.instant()
    }

    /// How long it is after `sent`; zero if `sent` is later.
    pub(crate) fn since(self, sent: Self) -> Duration {
        let Some(sent) = sent.near(self) else { return Duration::ZERO };
        self.instant(sent).and_then(|at| at.duration_since(sent).ok()).unwrap_or_default()
    }

    /// The later one.
    pub(crate) fn max(self, other: Self) -> Self {
        if self.since(other) > Duration::ZERO { self } else { other }
    }

    /// Returns the instant, relative to another date of the same peer. If both lack their century, any century gives the
    /// same difference.
    fn near(self, other: Self) -> Option<SystemTime> {
        let year = other.at.year + if other.two_digit_year { 2_000 } else { 0 };
        self.instant(Civil { year, ..other.at }.instant()?)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// A number of exactly `digits` digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

// === impl Civil ===

impl Civil {
    fn new(year: i64, month: &str, day: i64, time: &str) -> Option<Self> {
        let month = MONTHS.iter().position(|name| *name == month)? + 1;
        let month = u8::try_from(month).ok()?;
        // The century of two digits is not known yet; in most of them such a year is a leap year.
        let day = u8::try_from(day).ok().filter(|day| (1..=days_in(year, month)).contains(day))?;
        let mut parts = time.splitn(3, ':').map(|part| number(part, 2));
        let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
        let valid = hour < 24 && minute < 60 && second <= 60;
        let second = u32::try_from(hour * 3_600 + minute * 60 + second).ok().filter(|_| valid)?;
        Some(Self { year, month, day, second })
    }

    /// By Howard Hinnant's `civil_from_days`: <https://howardhinnant.github.io/date_algorithms.html>. Instants before
    /// 1970 become 1970.
    fn of(instant: SystemTime) -> Self {
        let seconds = instant.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Years beyond i64 do not come from a clock.
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 2);
        let days = seconds / DAY + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let small = |number: i64| u8::try_from(number).unwrap_or(1);
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * shifted + 2) / 5 + 1),
            second: u32::try_from(seconds % DAY).unwrap_or_default(),
        }
    }

    /// By `days_from_civil` of the same source.
    fn instant(self) -> Option<SystemTime> {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let shifted = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * shifted + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let seconds = (era * 146_097 + day_of_era - 719_468) * DAY + i64::from(self.second);
        match u64::try_from(seconds) {
            Ok(after) => UNIX_EPOCH.checked_add(Duration::from_secs(after)),
            Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs())),
        }
    }
}

const fn days_in(year: i64, month: u8) -> u8 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        let at = HttpDate::parse(text)?.instant(UNIX_EPOCH + Duration::from_secs(1_795_176_000))?;
        Some(match at.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap(),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap(),
        })
    }

    #[test]
    fn all_three_forms_are_read() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn a_wrong_weekday_and_a_leap_second_do_no_harm() {
        assert_eq!(seconds("Mon, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Sat, 31 Dec 2016 23:59:60 GMT"), seconds("Sun, 01 Jan 2017 00:00:00 GMT"));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:60 GMT"), Some(784_111_800));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "tomorrow",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 2023 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            ", 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(HttpDate::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn two_digits_are_at_most_fifty_years_ahead() {
        let now = HttpDate::parse("Fri, 20 Nov 2026 12:00:00 GMT").unwrap().at.instant().unwrap();
        let year = |text: &str| Civil::of(HttpDate::parse(text).unwrap().instant(now).unwrap()).year;
        assert_eq!(year("Friday, 20-Nov-76 12:00:00 GMT"), 2076, "exactly fifty");
        assert_eq!(year("Friday, 20-Nov-76 12:00:01 GMT"), 1976, "more than fifty");
        assert_eq!(year("Sunday, 06-Nov-94 08:49:37 GMT"), 1994);
        assert_eq!(year("Friday, 20-Nov-26 11:59:59 GMT"), 2026, "just passed");
        assert_eq!(year("Monday, 01-Jan-00 00:00:00 GMT"), 2000);
        let now = HttpDate::parse("Fri, 20 Nov 2080 12:00:00 GMT").unwrap().at.instant().unwrap();
        let year = |text: &str| Civil::of(HttpDate::parse(text).unwrap().instant(now).unwrap()).year;
        assert_eq!(year("Monday, 01-Jan-10 00:00:00 GMT"), 2110, "thirty ahead");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}", now in any::<u64>()) {
            let now = UNIX_EPOCH.checked_add(Duration::from_secs(now)).unwrap_or(UNIX_EPOCH);
            let _ = HttpDate::parse(&text).map(|date| date.instant(now));
        }

        #[test]
        fn it_agrees_with_httpdate(at in 0..253_402_300_800_u64) {
            let at = UNIX_EPOCH + Duration::from_secs(at);
            let text = httpdate::fmt_http_date(at);
            let date = HttpDate::parse(&text).unwrap();
            prop_assert_eq!(date.instant(UNIX_EPOCH), Some(at));
            prop_assert_eq!(Civil::of(at), date.at);
        }
    }

    #[test]
    fn a_month_has_its_days() {
        for (year, month, days) in [
            (2023, 2, 28),
            (2024, 2, 29),
            (1900, 2, 28),
            (2000, 2, 29),
            (2100, 2, 28),
            (2023, 1, 31),
            (2023, 4, 30),
            (2023, 6, 30),
            (2023, 9, 30),
            (2023, 11, 30),
            (2023, 12, 31),
        ] {
            assert_eq!(days_in(year, month), days, "{year}-{month}");
        }
    }

    #[test]
    fn the_last_day_of_each_month_is_counted_back() {
        let mut days = 0_u64;
        for year in 1970..2405 {
            for month in 1..=12_u8 {
                let last = days + u64::from(days_in(year, month)) - 1;
                let civil = Civil::of(UNIX_EPOCH + Duration::from_secs(last * 86_400 + 86_399));
                assert_eq!(
                    (civil.year, civil.month, civil.day, civil.second),
                    (year, month, days_in(year, month), 86_399)
                );
                days = last + 1;
            }
        }
    }
}
