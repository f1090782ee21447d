//! What `Cache-Control` permits to store, and to return after expiry (RFC 9111, RFC 5861).

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, VARY};

use crate::proto::list;

/// The directives of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Its answer may be stored.
    pub(crate) keep: bool,
    /// It accepts an earlier answer up to this age; `None`: it accepts none.
    pub(crate) max_age: Option<Duration>,
}

/// The directives that matter here.
#[derive(Debug, Default)]
struct Directives {
    no_store: bool,
    no_cache: bool,
    private: bool,
    must_revalidate: bool,
    max_age: Option<Duration>,
    shared_max_age: Option<Duration>,
    stale_if_error: Option<Duration>,
}

// === impl Wishes ===

impl Wishes {
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let said = Directives::of(request);
        let takes_none = said.no_store || said.no_cache;
        let limit = match said.stale_if_error {
            // How much older than fresh it may be.
            Some(stale) => said.max_age.unwrap_or_default().saturating_add(stale),
            None => said.max_age.unwrap_or(Duration::MAX),
        };
        Self { keep: !said.no_store, max_age: (!takes_none).then_some(limit) }
    }
}

/// Returns how old an answer with these headers may become, at most `ttl`; `None`: it must not be stored.
///
/// `no-cache` on an event stream does not count: every server writes it there, so that proxies do not buffer the stream.
pub(crate) fn lifetime(answer: &HeaderMap, ttl: Duration, is_stream: bool) -> Option<Duration> {
    let said = Directives::of(answer);
    let varies = list::members(answer, &VARY).any(|member| member == b"*");
    if said.no_store || said.private || varies || (said.no_cache && !is_stream) {
        return None;
    }
    let fresh = said.shared_max_age.or(said.max_age).unwrap_or_default();
    // RFC 9111, 4.2.4 and 5.2.2.10: a shared cache must not return it after it expires.
    let limit = if said.must_revalidate || said.shared_max_age.is_some() {
        fresh
    } else {
        said.stale_if_error.map_or(Duration::MAX, |stale| fresh.saturating_add(stale))
    };
    Some(limit.min(ttl)).filter(|limit| !limit.is_zero())
}

/// How long an answer with these headers is fresh by its own directives.
pub(crate) fn freshness(answer: &HeaderMap) -> Duration {
    let said = Directives::of(answer);
    said.shared_max_age.or(said.max_age).unwrap_or_default()
}

/// The age of the answer when it arrived.
pub(crate) fn age(answer: &HeaderMap) -> Duration {
    answer.get(AGE).and_then(|age| seconds(age.as_bytes())).unwrap_or_default()
}

// === impl Directives ===

impl Directives {
    fn of(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for member in list::members(headers, &CACHE_CONTROL) {
            let mut parts = member.splitn(2, |&byte| byte == b'=');
            let name = parts.next().unwrap_or_default().trim_ascii();
            let value = parts.next().map(<[u8]>::trim_ascii);
            let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
            // An unreadable value counts as the strictest.
            let time = || Some(value.and_then(seconds).unwrap_or_default());
            if is("no-store") {
                said.no_store = true;
            } else if is("no-cache") {
                said.no_cache = true;
            } else if is("private") {
                said.private = true;
            } else if is("must-revalidate") || is("proxy-revalidate") {
                said.must_revalidate = true;
            } else if is("max-age") {
                said.max_age = time();
            } else if is("s-maxage") {
                said.shared_max_age = time();
            } else if is("stale-if-error") {
                said.stale_if_error = time();
            }
        }
        said
    }
}

/// Parses seconds, quoted or not; a number that is too large saturates.
fn seconds(value: &[u8]) -> Option<Duration> {
    let digits = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = valid.then(|| std::str::from_utf8(digits).ok())??;
    Some(Duration::from_secs(number.parse().unwrap_or(u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn headers(said: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(said))])
    }

    #[test]
    fn an_answer_says_how_old_it_may_become() {
        let of = |said| lifetime(&headers(said), HOUR, false).map(|limit| limit.as_secs());
        for (said, limit) in [
            ("", Some(3_600)),
            ("public", Some(3_600)),
            ("max-age=60", Some(3_600)),
            ("max-age=60, stale-if-error=30", Some(90)),
            ("Stale-If-Error=\"30\"", Some(30)),
            ("stale-if-error=86400", Some(3_600)),
            ("max-age=60, must-revalidate", Some(60)),
            ("s-maxage=20, max-age=60", Some(20)),
            ("must-revalidate", None),
            ("max-age=x, must-revalidate", None),
            ("No-Store", None),
            ("no-cache=\"set-cookie\"", None),
            ("max-age=60, private", None),
            ("stale-if-error=99999999999999999999999", Some(3_600)),
        ] {
            assert_eq!(of(said), limit, "{said}");
        }
        assert!(
            lifetime(&HeaderMap::from_iter([(VARY, HeaderValue::from_static("accept, *"))]), HOUR, false).is_none()
        );
    }

    #[test]
    fn no_cache_on_an_event_stream_is_for_proxies() {
        assert_eq!(lifetime(&headers("no-cache"), HOUR, true), Some(HOUR));
        assert_eq!(lifetime(&headers("no-cache, no-store"), HOUR, true), None);
    }

    #[test]
    fn a_request_says_what_it_takes() {
        let of = |said| {
            let wishes = Wishes::of(&headers(said));
            (wishes.keep, wishes.max_age.map(|limit| limit.as_secs()))
        };
        assert_eq!(of(""), (true, Some(u64::MAX)));
        assert_eq!(of("no-cache"), (true, None));
        assert_eq!(of("no-store"), (false, None));
        assert_eq!(of("max-age=0"), (true, Some(0)));
        assert_eq!(of("max-age=10, stale-if-error=5"), (true, Some(15)));
    }
}
