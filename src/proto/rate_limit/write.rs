//! Writes a server's own limits in the form of the IETF draft.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::{RATE_LIMIT, RATE_LIMIT_POLICY};

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

/// Writes the headers of the draft.
pub(crate) fn write(policies: impl Iterator<Item = Policy> + Clone, headers: &mut HeaderMap) {
    let (mut limits, mut policy) = (String::new(), String::new());
    for Policy { name, unit, quota, window, remaining, reset } in policies {
        let comma = if limits.is_empty() { "" } else { ", " };
        let seconds = reset.as_secs().saturating_add(u64::from(reset.subsec_nanos() > 0));
        // Writing to a string does not fail.
        let _ = write!(limits, "{comma}\"{name}\";r={remaining};t={seconds}");
        let _ = write!(policy, "{comma}\"{name}\";q={quota}");
        if let Some(window) = window {
            let _ = write!(policy, ";w={}", window.as_secs().max(1));
        }
        if let Some(unit) = unit {
            let _ = write!(policy, ";qu=\"{unit}\"");
        }
    }
    for (name, value) in [(RATE_LIMIT, limits), (RATE_LIMIT_POLICY, policy)] {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::{Unit, quotas};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut headers = HeaderMap::new();
        let policy = |name, unit, remaining| {
            let (window, reset) = (Some(Duration::from_secs(60)), Duration::from_millis(1500));
            Policy { name, unit, quota: 60, window, remaining, reset }
        };
        write([policy("requests", None, 59), policy("tokens", Some("tokens"), 7)].into_iter(), &mut headers);
        assert_eq!(headers["ratelimit"], "\"requests\";r=59;t=2, \"tokens\";r=7;t=2");
        assert_eq!(headers["ratelimit-policy"], "\"requests\";q=60;w=60, \"tokens\";q=60;w=60;qu=\"tokens\"");
        let again = quotas(&headers, SystemTime::UNIX_EPOCH);
        assert_eq!((again[0].remaining, again[1].unit, again[1].remaining), (Some(59), Unit::Tokens, Some(7)));
    }

    #[test]
    fn a_reset_is_rounded_up_to_seconds() {
        for (millis, seconds) in [(0, 0), (1, 1), (1_000, 1), (1_001, 2)] {
            let (mut headers, reset) = (HeaderMap::new(), Duration::from_millis(millis));
            let policy = Policy { name: "requests", unit: None, quota: 1, window: None, remaining: 0, reset };
            write(std::iter::once(policy), &mut headers);
            assert_eq!(headers["ratelimit"], format!("\"requests\";r=0;t={seconds}"));
        }
    }
}
