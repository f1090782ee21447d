//! Removes a caller's key from a request.

use http::header::{COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Uri};

use crate::paths;

/// Removes the key from the headers and the query. Callers with a client for several providers send it in more than one
/// place. Other lines, cookies, protocols of a WebSocket and parameters stay.
pub(super) fn remove<B>(request: &mut Request<B>, key: &[u8]) {
    let headers = request.headers_mut();
    let held = headers.iter().filter(|(name, value)| members(name, value).any(|member| is_key(name, member, key)));
    let names: Vec<HeaderName> = held.map(|(name, _)| name.clone()).collect();
    for name in names {
        let lines: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        lines.into_iter().filter_map(|line| line_without(&name, line, key)).for_each(|line| {
            headers.append(&name, line);
        });
    }
    if let Some(uri) = without(request.uri(), key) {
        *request.uri_mut() = uri;
    }
}

/// The line without the members that are the key; `None` if nothing is left.
fn line_without(name: &HeaderName, line: HeaderValue, key: &[u8]) -> Option<HeaderValue> {
    if !members(name, &line).any(|member| is_key(name, member, key)) {
        return Some(line);
    }
    let kept: Vec<&[u8]> = members(name, &line).filter(|member| !is_key(name, member, key)).collect();
    let kept = kept.join(&separator(name)?);
    HeaderValue::from_bytes(kept.trim_ascii()).ok().filter(|line| !line.is_empty())
}

/// The parts of a line that may each be a key.
fn members<'a>(name: &HeaderName, line: &'a HeaderValue) -> impl Iterator<Item = &'a [u8]> {
    let separator = separator(name);
    line.as_bytes().split(move |&byte| Some(byte) == separator)
}

fn separator(name: &HeaderName) -> Option<u8> {
    let protocols = (*name == SEC_WEBSOCKET_PROTOCOL).then_some(b',');
    if *name == COOKIE { Some(b';') } else { protocols }
}

/// Whether the text is the key, alone, after a scheme, as a cookie or as a protocol of a WebSocket.
fn is_key(name: &HeaderName, text: &[u8], key: &[u8]) -> bool {
    if *name == COOKIE {
        return is_key_in_cookie(text, key);
    }
    let rest = text.trim_ascii().strip_suffix(key);
    rest.is_some_and(|rest| match rest.last() {
        None | Some(b' ' | b'\t') => true,
        Some(b'.') => *name == SEC_WEBSOCKET_PROTOCOL,
        Some(_) => false,
    })
}

/// The same for a cookie, whose value may be in quotes and percent-encoded.
fn is_key_in_cookie(cookie: &[u8], key: &[u8]) -> bool {
    let cookie = cookie.trim_ascii();
    [cookie, &paths::decoded(cookie)].into_iter().any(|text| {
        let rest = text.strip_suffix(key).or_else(|| text.strip_suffix(b"\"")?.strip_suffix(key));
        rest.is_some_and(|rest| matches!(rest.last(), None | Some(b' ' | b'\t' | b'=' | b'"')))
    })
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
            ("cookie", "key=k=1"),
            ("sec-websocket-protocol", " k=1, openai-insecure-api-key.k=1"),
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

        // The rest of a list stays.
        let lists = [
            ("cookie", "theme=dark; key=k; lang=en", "theme=dark; lang=en"),
            ("cookie", "key=k; session=\"a\"", "session=\"a\""),
            ("cookie", "key=\"k\"; a=\"kk\"; auth=Bearer%20k; b=%22k%22; c=%6b; d=%6bk; e=k\"", "a=\"kk\"; d=%6bk"),
            ("cookie", "a=1;b=kk; c=k.", "a=1;b=kk; c=k."),
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.k,v2", "realtime,v2"),
            ("sec-websocket-protocol", "realtime, k", "realtime"),
            ("sec-websocket-protocol", "realtime,chat", "realtime,chat"),
            ("x-of-their-own", "team a", "team a"),
        ];
        let request = lists.iter().fold(Request::get("/v1"), |request, (name, value, _)| request.header(*name, *value));
        let mut request = request.header("x-of-their-own", "k").body(()).unwrap();
        remove(&mut request, b"k");
        for name in ["cookie", "sec-websocket-protocol", "x-of-their-own"] {
            let left = request.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
            assert!(left.eq(lists.iter().filter(|(of, ..)| name == *of).map(|(.., left)| *left)), "{request:?}");
        }

        let cookies = "a=%41%; b=%2541%25; c=\"%41%\"; d=A%";
        let mut request = Request::get("/v1").header("cookie", cookies).body(()).unwrap();
        remove(&mut request, b"%41%");
        assert_eq!(request.headers()["cookie"], "d=A%", "a key with percent signs");

        let mut request = Request::get("/v1?key=k").body(()).unwrap();
        remove(&mut request, b"k");
        assert_eq!(request.uri(), "/v1");
    }
}
