//! `Prefer: respond-async, wait=N` (RFC 7240): the caller prefers a URL for the answer over waiting for it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::list;

/// A caller's preferences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// To be answered later instead of waiting.
    pub(crate) respond_async: bool,
    /// How long it would wait.
    pub(crate) wait: Option<Duration>,
}

pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
const RESPOND_ASYNC: &str = "respond-async";
const WAIT: &str = "wait";

// === impl Preferences ===

impl Preferences {
    /// Reads a request's preferences. Of several preferences with one name, the first counts; a malformed one is ignored.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut has_wait = false;
        for member in list::members(headers, &PREFER) {
            match named(member) {
                (name, None) if name.eq_ignore_ascii_case(RESPOND_ASYNC.as_bytes()) => found.respond_async = true,
                (name, value) if name.eq_ignore_ascii_case(WAIT.as_bytes()) && !has_wait => {
                    has_wait = true;
                    found.wait = value.and_then(seconds).map(Duration::from_secs);
                }
                _ => {}
            }
        }
        found
    }

    /// Removes both from a forwarded request, since another server might honour them too. Others stay.
    pub(crate) fn remove(headers: &mut HeaderMap) {
        let is_ours = |member: &&[u8]| {
            let (name, _) = named(member);
            [RESPOND_ASYNC, WAIT].iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
        };
        if !list::members(headers, &PREFER).any(|member| is_ours(&member)) {
            return;
        }
        let others: Vec<&[u8]> = list::members(headers, &PREFER).filter(|member| !is_ours(member)).collect();
        let line = HeaderValue::from_bytes(&others.join(&b", "[..])).ok().filter(|line| !line.is_empty());
        match line {
            Some(line) => headers.insert(PREFER, line),
            None => headers.remove(PREFER),
        };
    }
}

/// A preference's name, and its value where it has one.
fn named(member: &[u8]) -> (&[u8], Option<&[u8]>) {
    let preference = list::parts(member).next().unwrap_or_default();
    match preference.iter().position(|&byte| byte == b'=') {
        Some(at) => (preference[..at].trim_ascii_end(), Some(preference[at + 1..].trim_ascii_start())),
        None => (preference, None),
    }
}

fn seconds(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_static(line));
        }
        headers
    }

    #[test]
    fn it_is_read_from_any_line_in_any_case() {
        for (lines, respond_async, wait) in [
            (&[][..], false, None),
            (&["respond-async"], true, None),
            (&["respond-async, wait=10"], true, Some(10)),
            (&["Respond-Async", "WAIT = 10; x=1"], true, Some(10)),
            (&["wait=3"], false, Some(3)),
            (&["wait=3, wait=4"], false, Some(3)),
            (&["wait=x, wait=4, wait"], false, None),
            (&["wait=-1"], false, None),
            (&["wait=+1"], false, None),
            (&["wait=99999999999999999999"], false, None),
            (&["respond-async=1, return=minimal"], false, None),
        ] {
            let expected = Preferences { respond_async, wait: wait.map(Duration::from_secs) };
            assert_eq!(Preferences::of(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_what_is_ours_is_taken_off() {
        for (lines, expected) in [
            (&["respond-async, wait=10"][..], None),
            (&["return=minimal"], Some("return=minimal")),
            (&["respond-async, return=minimal", "wait=1, handling=lenient"], Some("return=minimal, handling=lenient")),
            (&[], None),
        ] {
            let mut headers = headers(lines);
            Preferences::remove(&mut headers);
            assert_eq!(headers.get(PREFER).map(|line| line.to_str().unwrap()), expected, "{lines:?}");
        }
    }
}
