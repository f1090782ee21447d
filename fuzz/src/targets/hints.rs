//! Headers in which a server says whether and when to retry.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use tower_buttress::proto::{grpc, retry_after};

pub(crate) const VOCABULARY: &[&[u8]] = &[
    b"\n",
    b"0",
    b"1",
    b"60",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-1",
    b"+5",
    b".",
    b"e3",
    b"inf",
    b"NaN",
    b" ",
    b",",
    b"true",
    b"false",
    b"Sun, 06 Nov 1994 08:49:37 GMT",
    b"Sunday, 06-Nov-94 08:49:37 GMT",
    b"Sun Nov  6 08:49:37 1994",
    b"Fri, 31 Dec 9999 23:59:59 GMT",
    b"Thu, 01 Jan 1970 00:00:00 GMT",
    b"GMT",
    b"CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAg",
    b"EhAKDgj///////////8BEP////8P",
    b"-94 ",
    b"\xFF",
];

/// The header of each input line.
const NAMES: [&str; 9] = [
    "retry-after",
    "retry-after",
    "date",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "x-should-retry",
    "grpc-retry-pushback-ms",
    "grpc-status",
    "grpc-status-details-bin",
];

/// Every value gives a wait, and one in plain seconds is never shortened.
pub(crate) fn run(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for (name, line) in NAMES.into_iter().zip(input.split(|&byte| byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let _ = (retry_after::should_retry(&headers), grpc::status(&headers), grpc::pushback(&headers));
    let _ = grpc::retry_info(&headers);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let wait = retry_after::retry_after(&headers).map(|after| after.wait(now));
    if headers.contains_key("retry-after-ms") || headers.contains_key("x-ms-retry-after-ms") {
        return;
    }
    for value in headers.get_all("retry-after") {
        let value = value.as_bytes();
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let seconds = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
        assert!(!digits || wait.is_some_and(|wait| wait >= Duration::from_secs(seconds)), "{headers:?} is {wait:?}");
    }
}
