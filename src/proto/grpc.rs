//! The status and the retry hints of a gRPC answer.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use self::details::{retry_info, status_details};
pub(crate) use self::web::WebTrailersReader;
use super::media_type;

#[cfg(feature = "tonic")]
mod details;
mod web;

/// The status of the call: in the trailers, or in the head of an answer without a body.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The message for people.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRFC A6: when a client should retry, or that it must not.
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// gRFC A6: the number of a client's earlier attempts.
pub const GRPC_PREVIOUS_RPC_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// A `google.rpc.Status` in base64: the code, the message, and details.
pub const GRPC_STATUS_DETAILS_BIN: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// A server's instruction for retries (gRFC A6, "Pushback").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushback {
    /// Retry after this long.
    After(Duration),
    /// Do not retry.
    Never,
}

/// Where a gRPC message has its trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcFraming {
    /// As HTTP trailers.
    Trailers,
    /// In a frame at the end of its body.
    Web,
}

/// `OK`.
pub(crate) const OK: u8 = 0;
/// `UNKNOWN`, also for every code that the specification does not list.
const UNKNOWN: u8 = 2;
/// `UNAUTHENTICATED`, the last one.
const LAST: u8 = 16;

/// Returns the [status code](https://grpc.github.io/grpc/core/md_doc_statuscodes.html), 0 to 16; `None` without a status.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use tower_buttress::proto::grpc;
///
/// let mut trailers = HeaderMap::new();
/// assert_eq!(grpc::status(&trailers), None);
/// trailers.insert("grpc-status", HeaderValue::from_static("14"));
/// assert_eq!(grpc::status(&trailers), Some(14));
/// trailers.insert("grpc-status", HeaderValue::from_static("1400"));
/// assert_eq!(grpc::status(&trailers), Some(2), "unknown");
/// ```
#[must_use]
pub fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS).map(|value| match digits(value.as_bytes(), 2) {
        Some(code) => u8::try_from(code).ok().filter(|code| *code <= LAST).unwrap_or(UNKNOWN),
        None => UNKNOWN,
    })
}

/// Returns when the server wants to be tried again; `None` without a pushback.
///
/// By the specification a negative value, or a value that is not a number, forbids retries. So do two values, as gRPC's
/// own clients read them.
#[must_use]
pub fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let mut lines = headers.get_all(GRPC_RETRY_PUSHBACK_MS).iter();
    let line = lines.next()?;
    // A signed 32-bit integer has at most ten digits.
    let wait = digits(line.as_bytes(), 10).filter(|ms| *ms <= u64::from(i32::MAX.unsigned_abs()));
    Some(match (wait, lines.next()) {
        (Some(ms), None) => Pushback::After(Duration::from_millis(ms)),
        _ => Pushback::Never,
    })
}

/// Returns the kind of gRPC of these headers, if any: `application/grpc` or `application/grpc-web`, with or without the
/// name of an encoding.
pub(crate) fn framing(headers: &HeaderMap) -> Option<GrpcFraming> {
    const PREFIX: &[u8] = b"application/grpc";
    // Most answers are something else, which the prefix shows without parsing the type.
    let start = headers.get(CONTENT_TYPE)?.as_bytes().trim_ascii_start().get(..PREFIX.len())?;
    if !start.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    match media_type::essence(headers).get(PREFIX.len()..)? {
        [] | [b'+', ..] => Some(GrpcFraming::Trailers),
        variant if variant.get(..4).is_some_and(|web| web.eq_ignore_ascii_case(b"-web")) => Some(GrpcFraming::Web),
        _ => None,
    }
}

/// Whether the status of this message comes in trailers.
pub(crate) fn has_trailers(headers: &HeaderMap) -> bool {
    framing(headers) == Some(GrpcFraming::Trailers)
}

/// Whether an answer with this head ends only with a status in its trailers.
pub(crate) fn owes_status(head: &HeaderMap) -> bool {
    has_trailers(head) && status(head).is_none()
}

/// Whether the head of a 2xx shows a success. Most gRPC answers show it only at their end.
pub(crate) fn is_success_at_head(head: &HeaderMap) -> bool {
    status(head).map_or_else(|| framing(head).is_none(), |status| status == OK)
}

fn digits(value: &[u8], most: usize) -> Option<u64> {
    let value = value.trim_ascii();
    let valid = (1..=most).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    valid.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_web_has_no_trailers() {
        let say = |value| has_trailers(&with(CONTENT_TYPE, value));
        for grpc in ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=utf-8"] {
            assert!(say(grpc), "{grpc}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/grp", "text/html", ""] {
            assert!(!say(other), "{other}");
        }
        assert!(!has_trailers(&HeaderMap::new()));
    }

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_code_that_is_not_known_is_unknown() {
        let say = |value| status(&with(GRPC_STATUS, value));
        assert_eq!(say("0"), Some(0));
        assert_eq!(say("16"), Some(16));
        for odd in ["", "17", "99", "-1", "+1", "OK", "014"] {
            assert_eq!(say(odd), Some(UNKNOWN), "{odd:?}");
        }
        assert_eq!(status(&HeaderMap::new()), None);
    }

    #[test]
    fn a_pushback_that_cannot_be_read_forbids_the_retry() {
        let say = |value| pushback(&with(GRPC_RETRY_PUSHBACK_MS, value));
        assert_eq!(say("0"), Some(Pushback::After(Duration::ZERO)));
        assert_eq!(say("2147483647"), Some(Pushback::After(Duration::from_millis(2_147_483_647))));
        for no in ["-1", "", "soon", "2147483648", "99999999999", "1.5", "+1"] {
            assert_eq!(say(no), Some(Pushback::Never), "{no:?}");
        }
        assert_eq!(pushback(&HeaderMap::new()), None);
        let mut twice = with(GRPC_RETRY_PUSHBACK_MS, "10");
        twice.append(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from_static("10"));
        assert_eq!(pushback(&twice), Some(Pushback::Never), "two lines");
    }

    proptest! {
        #[test]
        fn nothing_panics(value in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(GRPC_STATUS, value.clone()), (GRPC_RETRY_PUSHBACK_MS, value)]);
                prop_assert!(status(&headers).is_some_and(|code| code <= LAST));
                prop_assert!(pushback(&headers).is_some());
            }
        }
    }
}
