//! Deadline headers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tower_buttress::DeadlineHeader;

pub(crate) const VOCABULARY: &[&[u8]] = &[
    b"0",
    b"1",
    b"99999999",
    b"100000000",
    b"18446744073709551615",
    b"18446744073709551616",
    b"H",
    b"M",
    b"S",
    b"m",
    b"u",
    b"n",
    b".",
    b"-",
    b"+",
    b" ",
    b"\t",
    b",",
    b"e3",
    b"inf",
    b"NaN",
    b"\xFF",
];

/// Every parsed deadline can be written again, and never grows.
pub(crate) fn run(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let headers = [
        DeadlineHeader::grpc(),
        DeadlineHeader::envoy(),
        DeadlineHeader::millis(HeaderName::from_static("x-ms")),
        DeadlineHeader::seconds(HeaderName::from_static("x-s")),
    ];
    for header in headers {
        let mut map = HeaderMap::new();
        map.insert(header.name(), value.clone());
        let Ok(Some(left)) = header.read(&map) else { continue };
        if header.write(left, &mut map) {
            let said = header.read(&map);
            assert!(
                matches!(said, Ok(Some(said)) if said <= left && said > Duration::ZERO),
                "{left:?} became {said:?}"
            );
        }
    }
}
