//! Fields that say something about the exact bytes of a body: RFC 9530, its predecessors, RFC 9421, and what providers have
//! of their own.

use http::{HeaderMap, HeaderName};

/// Removes them, from the head or the trailers of a body that is another by now.
pub(crate) fn remove(headers: &mut HeaderMap) {
    // There are none as a rule: then this is one pass, without a lookup for each.
    if headers.keys().any(is_digest) {
        remove_all(headers);
    }
}

#[cold]
fn remove_all(headers: &mut HeaderMap) {
    let digests: Vec<HeaderName> = headers.keys().filter(|name| is_digest(name)).cloned().collect();
    for name in digests {
        headers.remove(name);
    }
}

fn is_digest(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "content-digest"
            | "repr-digest"
            | "digest"
            | "content-md5"
            | "etag"
            | "signature"
            | "signature-input"
            | "x-amz-trailer-signature"
            | "x-checksum"
            | "x-goog-hash"
    ) || name.starts_with("x-amz-checksum-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_depends_on_the_bytes_goes_and_the_rest_stays() {
        let goes = [
            "content-digest",
            "repr-digest",
            "digest",
            "content-md5",
            "etag",
            "signature",
            "signature-input",
            "x-amz-checksum-crc64nvme",
            "x-amz-trailer-signature",
            "x-checksum",
            "x-goog-hash",
        ];
        let stays = ["content-type", "grpc-status", "server-timing", "x-request-id", "want-content-digest"];
        let names = goes.iter().chain(&stays).map(|name| HeaderName::from_static(name));
        let mut headers: HeaderMap = names.map(|name| (name, HeaderValue::from_static("x"))).collect();
        headers.append("digest", HeaderValue::from_static("y"));
        remove(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let mut stays = stays.to_vec();
        stays.sort_unstable();
        assert_eq!(left, stays);
    }
}
