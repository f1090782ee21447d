//! Fields that depend on the exact bytes of a body: RFC 9530, its predecessors, RFC 9421, and fields of providers.

use http::{HeaderMap, HeaderName};

/// Removes them, from the head or the trailers of a changed body.
pub(crate) fn remove(headers: &mut HeaderMap) {
    take(headers);
}

/// Removes and returns them.
pub(crate) fn take(headers: &mut HeaderMap) -> HeaderMap {
    // Usually there are none: one pass costs less than a look-up for each.
    if headers.keys().any(is_digest) { take_all(headers) } else { HeaderMap::new() }
}

#[cold]
fn take_all(headers: &mut HeaderMap) -> HeaderMap {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_digest(name)).cloned().collect();
    let mut taken = HeaderMap::new();
    for name in names {
        taken.extend(headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
        headers.remove(name);
    }
    taken
}

/// Restores the taken fields, for an unchanged body. A field that was set since stays.
pub(crate) fn restore(headers: &mut HeaderMap, mut taken: HeaderMap) {
    for name in headers.keys() {
        taken.remove(name);
    }
    headers.extend(taken);
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
        // Amazon's, Google's, Azure's and Oracle's signatures have the hash of the body in a field of this name.
        || name.ends_with("content-sha256")
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
            "x-amz-content-sha256",
            "x-amz-trailer-signature",
            "x-checksum",
            "x-goog-hash",
            "x-ms-content-sha256",
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

    #[test]
    fn what_was_taken_is_put_back_unless_it_was_set_anew() {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers = HeaderMap::from_iter([header("digest", "a"), header("accept", "x"), header("etag", "e")]);
        headers.append("digest", HeaderValue::from_static("b"));
        let taken = take(&mut headers);
        assert_eq!((headers.len(), taken.len()), (1, 3));
        headers.insert("etag", HeaderValue::from_static("new"));
        restore(&mut headers, taken);
        assert_eq!(headers["etag"], "new");
        assert_eq!(headers.get_all("digest").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers.len(), 4);
    }
}
