//! Removes a caller's key from a request.

use http::header::{COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Uri};

use crate::paths;

/// Removes each header and each parameter of the query that holds the key. Callers with a client for several
/// providers send it in more than one place.
pub(super) fn remove<B>(request: &mut Request<B>, key: &[u8]) {
    let held = request.headers().iter().filter(|(name, value)| is_copy(name, value, key));
    let names: Vec<HeaderName> = held.map(|(name, _)| name.clone()).collect();
    for name in names {
        request.headers_mut().remove(name);
    }
    if let Some(uri) = without(request.uri(), key) {
        *request.uri_mut() = uri;
    }
}

/// Whether the value is the key, alone, after a scheme, in a cookie or among the protocols of a WebSocket.
fn is_copy(name: &HeaderName, value: &HeaderValue, key: &[u8]) -> bool {
    let ends_with_key = |text: &[u8], before: &[u8]| {
        let rest = text.trim_ascii().strip_suffix(key);
        rest.is_some_and(|rest| rest.last().is_none_or(|last| before.contains(last)))
    };
    let value = value.as_bytes();
    ends_with_key(value, b" \t")
        || *name == COOKIE && value.split(|byte| *byte == b';').any(|cookie| ends_with_key(cookie, b"="))
        || *name == SEC_WEBSOCKET_PROTOCOL && value.split(|byte| *byte == b',').any(|name| ends_with_key(name, b"."))
}

/// The URI without parameters whose value is the key; `None` if there are none.
fn without(uri: &Uri, key: &[u8]) -> Option<Uri> {
    let query = uri.query()?;
    let is_kept = |parameter: &&str| {
        let value = parameter.split_once('=').map_or(*parameter, |(_, value)| value);
        paths::decoded(value.as_bytes()) != key
    };
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    if kept.len() == query.split('&').count() {
        return None;
    }
    let target = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    // A valid target stays valid without these parameters; if not, no URI is better than one with a key.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    Some(Uri::from_parts(parts).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_from_each_place_and_the_rest_stays() {
        let copies = [
            ("authorization", "Bearer k=1"),
            ("x-api-key", "k=1"),
            ("api-key", "k=1"),
            ("x-goog-api-key", " k=1 "),
            ("proxy-authorization", "Token  k=1"),
            ("x-of-their-own", "k=1"),
            ("cookie", "theme=dark; key=k=1; lang=en"),
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.k=1"),
        ];
        let others = [
            ("accept", "k=1.1"),
            ("x-team", "ak=1"),
            ("x-cookie", "a; key=k=1"),
            ("x-protocol", "realtime.k=1"),
            ("user-agent", "k"),
        ];
        let mut request = Request::get("http://gateway/v1?key=k=1&alt=sse&token=k%3D1&k=11&k%3d1");
        for (name, value) in copies.iter().chain(&others) {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        remove(&mut request, b"k=1");
        assert_eq!(request.uri(), "http://gateway/v1?alt=sse&k=11");
        let mut left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "user-agent", "x-cookie", "x-protocol", "x-team"]);

        let mut request = Request::get("/v1?key=k").body(()).unwrap();
        remove(&mut request, b"k");
        assert_eq!(request.uri(), "/v1");
    }
}
