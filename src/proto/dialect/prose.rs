//! Reads a wait from a message for people.

use std::time::Duration;

use crate::proto::retry_after::decimal;

/// The words before the wait in the messages of OpenAI and Groq, Azure, and Gemini.
const BEFORE: [&str; 4] = ["try again in ", "retry after ", "retry in ", "again after "];

/// The longest name first, since some names begin with others.
const UNITS: [(&str, Duration); 18] = [
    ("milliseconds", Duration::from_millis(1)),
    ("millisecond", Duration::from_millis(1)),
    ("seconds", Duration::from_secs(1)),
    ("minutes", Duration::from_secs(60)),
    ("second", Duration::from_secs(1)),
    ("minute", Duration::from_secs(60)),
    ("hours", Duration::from_secs(3_600)),
    ("hour", Duration::from_secs(3_600)),
    ("days", Duration::from_secs(86_400)),
    ("secs", Duration::from_secs(1)),
    ("mins", Duration::from_secs(60)),
    ("day", Duration::from_secs(86_400)),
    ("sec", Duration::from_secs(1)),
    ("min", Duration::from_secs(60)),
    ("ms", Duration::from_millis(1)),
    ("s", Duration::from_secs(1)),
    ("m", Duration::from_secs(60)),
    ("h", Duration::from_secs(3_600)),
];

/// Returns the wait that a message asks for: `Please try again in 6m0s`, `retry after 7 seconds`. Of several, the first.
pub(crate) fn wait(message: &str) -> Option<Duration> {
    let message = message.to_ascii_lowercase();
    let starts = BEFORE.iter().flat_map(|before| message.match_indices(before).map(|(at, before)| at + before.len()));
    starts.filter_map(|at| Some((at, duration(message.get(at..)?)?))).min_by_key(|(at, _)| *at).map(|(_, wait)| wait)
}

/// `number unit`, repeated: `1h2m3.5s`, `35 seconds`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = None;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at_checked(digits)?;
        // A full stop at the end of a sentence is not part of the number.
        let Some(unit) = UNITS.iter().find(|(name, _)| behind.trim_start_matches(' ').starts_with(name)) else { break };
        let Some(part) = decimal(number.as_bytes(), unit.1) else { break };
        sum = Some(sum.unwrap_or(Duration::ZERO).saturating_add(part));
        rest = behind.trim_start_matches(' ').get(unit.0.len()..)?;
        if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            // It is the beginning of another word.
            return None;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_of_providers_are_read() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (message, expected) in [
            ("Rate limit reached for gpt-4. Please try again in 1.898s. Visit https://x.", ms(1_898)),
            ("Please try again in 20ms.", ms(20)),
            ("Please try again in 6m0s.", ms(360_000)),
            ("Try again in 1h2m3.5s", ms(3_723_500)),
            ("try again in 35 seconds", ms(35_000)),
            ("Please retry after 7 seconds. To increase your default rate limit", ms(7_000)),
            ("Please retry after 86400 seconds.", ms(86_400_000)),
            ("retry after 21 days", ms(21 * 86_400_000)),
            ("Please retry in 10h17m5.723541104s.", Some(Duration::new(37_025, 723_541_104))),
            ("Please retry in 46.5 s", ms(46_500)),
        ] {
            assert_eq!(wait(message), expected, "{message}");
        }
    }

    #[test]
    fn what_is_no_wait_is_not_read() {
        for message in [
            "",
            "Overloaded",
            "try again in a few minutes",
            "try again in 5",
            "try again in 5 swallows",
            "try again in -5s",
            "try again in s",
            "try again in 1.2.3s",
            "try again in 1e3s",
        ] {
            assert_eq!(wait(message), None, "{message}");
        }
    }

    #[test]
    fn what_is_too_large_is_the_longest_wait() {
        let nines = "9".repeat(200);
        assert!(wait(&format!("retry after {nines} days")).unwrap() > Duration::from_secs(u64::MAX / 2));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(try again in |[0-9.]{0,5}|[a-zé ]{0,3}){0,8}") {
            let _ = wait(&text);
        }
    }
}
