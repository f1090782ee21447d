//! Writes a server's own limits in the form of the IETF draft.

use std::time::Duration;

use http::HeaderValue;

/// A policy that this server enforces, and how much of it a caller has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    /// The draft's name of the unit. `None`: requests, the default.
    pub(crate) unit: Option<&'static str>,
    pub(crate) quota: u64,
    /// `None`: a limit on concurrency, without a window.
    pub(crate) window: Option<Duration>,
    pub(crate) remaining: u64,
    pub(crate) reset: Duration,
}

/// The value of `RateLimit`: what is left of each policy. `None` without any.
pub(crate) fn limits(policies: impl Iterator<Item = Policy>) -> Option<HeaderValue> {
    value(policies, |text, Policy { remaining, reset, .. }| {
        let seconds = reset.as_secs().saturating_add(u64::from(reset.subsec_nanos() > 0));
        parameter(text, b";r=", remaining);
        parameter(text, b";t=", seconds);
    })
}

/// The value of `RateLimit-Policy`. `None` without any.
pub(crate) fn policies(policies: impl Iterator<Item = Policy>) -> Option<HeaderValue> {
    value(policies, |text, Policy { quota, window, unit, .. }| {
        parameter(text, b";q=", quota);
        if let Some(window) = window {
            parameter(text, b";w=", window.as_secs().max(1));
        }
        if let Some(unit) = unit {
            for part in [";qu=\"", unit, "\""] {
                text.extend_from_slice(part.as_bytes());
            }
        }
    })
}

/// A list of policies by name, each with its parameters.
fn value(all: impl Iterator<Item = Policy>, mut parameters: impl FnMut(&mut Vec<u8>, Policy)) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(TYPICAL);
    for policy in all {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.push(b'"');
        text.extend_from_slice(policy.name.as_bytes());
        text.push(b'"');
        parameters(&mut text, policy);
    }
    if text.is_empty() { None } else { HeaderValue::from_bytes(&text).ok() }
}

/// Not with the machinery of `fmt`: each answer has two or more of them.
fn parameter(text: &mut Vec<u8>, name: &[u8], mut number: u64) {
    text.extend_from_slice(name);
    let mut digits = [0; MAX_DIGITS];
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        (*digit, number) = (b'0' + (number % 10) as u8, number / 10);
        first -= 1;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[first..]);
}

/// The length of three policies.
const TYPICAL: usize = 128;
/// Of the largest `u64`.
const MAX_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::HeaderMap;

    use super::super::{RATE_LIMIT, RATE_LIMIT_POLICY, Unit, quotas};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let policy = |name, unit, remaining| {
            let (window, reset) = (Some(Duration::from_secs(60)), Duration::from_millis(1500));
            Policy { name, unit, quota: 60, window, remaining, reset }
        };
        let all = [policy("requests", None, 59), policy("tokens", Some("tokens"), 7)];
        let mut headers = HeaderMap::new();
        headers.insert(RATE_LIMIT, limits(all.into_iter()).unwrap());
        headers.insert(RATE_LIMIT_POLICY, policies(all.into_iter()).unwrap());
        assert_eq!(headers["ratelimit"], "\"requests\";r=59;t=2, \"tokens\";r=7;t=2");
        assert_eq!(headers["ratelimit-policy"], "\"requests\";q=60;w=60, \"tokens\";q=60;w=60;qu=\"tokens\"");
        let again = quotas(&headers, SystemTime::UNIX_EPOCH);
        assert_eq!((again[0].remaining, again[1].unit, again[1].remaining), (Some(59), Unit::Tokens, Some(7)));
    }

    #[test]
    fn a_reset_is_rounded_up_to_seconds() {
        for (millis, seconds) in [(0, 0), (1, 1), (1_000, 1), (1_001, 2)] {
            let reset = Duration::from_millis(millis);
            let policy = Policy { name: "requests", unit: None, quota: 1, window: None, remaining: 0, reset };
            assert_eq!(limits(std::iter::once(policy)).unwrap(), format!("\"requests\";r=0;t={seconds}"));
        }
        assert_eq!((limits(std::iter::empty()), policies(std::iter::empty())), (None, None));
    }

    #[test]
    fn every_number_is_written_whole() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let mut text = Vec::new();
            parameter(&mut text, b"r=", number);
            assert_eq!(text, format!("r={number}").into_bytes());
        }
    }
}
