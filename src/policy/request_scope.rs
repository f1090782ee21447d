//! The parts of every request fingerprint besides the body: its caller, its target, and the form of the answer.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, HOST, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::call::Tenant;
use crate::proto::credentials;
use crate::proto::fingerprint::Fingerprinter;
use crate::proto::header_names::HeaderNames;

/// Passes on the name of the tenant, if there is one.
pub(crate) type NameTenant = dyn Fn(&Parts, &mut dyn FnMut(&[u8])) + Send + Sync;

/// The headers that distinguish requests with the same body: the form of the answer, the type and the part of the body,
/// conditions, the method, the user, the position in a stream, and parameters of the LLM APIs.
pub(crate) const FINGERPRINT_HEADERS: [HeaderName; 21] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    RANGE,
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("x-http-method-override"),
];

/// Hashes the tenant on whose account the request is made. Returns whether it is known.
///
/// All credentials always count: a caller with one valid credential of two gets nothing from the upstream, and must not
/// match a caller with both. The result of `own`, a layer's `tenant` setting, may come from a header that any caller can
/// write: it only splits tenants. Only an authenticated tenant replaces the credentials.
pub(crate) fn hash_tenant(
    parts: &Parts,
    present: HeaderNames,
    own: Option<&NameTenant>,
    hash: &mut Fingerprinter,
) -> bool {
    let authenticated = parts.extensions.get().map(Tenant::as_str).filter(|name| !name.is_empty());
    let mut is_known = authenticated.is_some();
    if let Some(name) = authenticated {
        hash.field(b"tenant");
        hash.field(name.as_bytes());
    } else {
        let names = &credentials::HEADERS;
        hash.field(b"credentials");
        hash_headers(names, &parts.headers, present, hash);
        hash.list(credentials::in_uri(&parts.uri).map(str::as_bytes));
        is_known = credentials::names_any(parts, present);
    }
    if let Some(tenant) = own {
        is_known = false;
        tenant(parts, &mut |name| {
            hash.field(name);
            is_known = !name.is_empty();
        });
    }
    is_known
}

/// Hashes the target of the request.
pub(crate) fn hash_target(parts: &Parts, hash: &mut Fingerprinter) {
    hash.field(parts.method.as_str().as_bytes());
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => parts.headers.get(HOST).map_or(&[][..], HeaderValue::as_bytes),
    };
    hash.field(host);
    hash.field(parts.uri.path().as_bytes());
    hash.list(parts.uri.query().map(str::as_bytes).into_iter());
}

/// Hashes all lines of these headers.
pub(crate) fn hash_headers(names: &[HeaderName], headers: &HeaderMap, present: HeaderNames, hash: &mut Fingerprinter) {
    for name in names.iter().filter(|name| present.may_have(name)) {
        let lines = headers.get_all(name);
        let count = lines.iter().count();
        if count > 0 {
            hash.field(name.as_str().as_bytes());
            hash.count(count);
            lines.iter().for_each(|line| hash.field(line.as_bytes()));
        }
    }
    // No header has an empty name: the list ends here.
    hash.field(b"");
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::request::Builder;

    use super::*;
    use crate::proto::fingerprint::Fingerprint;

    fn parts(request: Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn of(add: impl FnOnce(&mut Fingerprinter)) -> Fingerprint {
        let mut hash = Fingerprinter::new("test");
        add(&mut hash);
        hash.finish(0)
    }

    fn tenant(parts: &Parts, own: Option<&NameTenant>) -> (bool, Fingerprint) {
        let mut known = false;
        let hash = of(|hash| known = hash_tenant(parts, HeaderNames::of(&parts.headers), own, hash));
        (known, hash)
    }

    #[test]
    fn a_tenant_is_known_by_its_name_or_its_credentials() {
        let anonymous = parts(Request::get("/"));
        let key = parts(Request::get("/").header("authorization", "Bearer a"));
        let other = parts(Request::get("/").header("authorization", "Bearer b"));
        let in_query = parts(Request::get("/?key=a"));
        let mut named = parts(Request::get("/").header("authorization", "Bearer a"));
        named.extensions.insert(Tenant::new("t"));
        let mut renamed = parts(Request::get("/").header("authorization", "Bearer b"));
        renamed.extensions.insert(Tenant::new("t"));
        assert!(!tenant(&anonymous, None).0);
        for (one, is_known) in [(&key, true), (&other, true), (&in_query, true), (&named, true)] {
            assert_eq!(tenant(one, None).0, is_known);
        }
        let hashes = [&anonymous, &key, &other, &in_query, &named].map(|parts| tenant(parts, None).1);
        for (nth, hash) in hashes.iter().enumerate() {
            assert_eq!(hashes.iter().position(|other| other == hash), Some(nth), "each is another");
        }
        assert_eq!(tenant(&named, None).1, tenant(&renamed, None).1, "the name alone counts");
        let mut unnamed = parts(Request::get("/").header("authorization", "Bearer a"));
        unnamed.extensions.insert(Tenant::new(""));
        assert_eq!(tenant(&unnamed, None), tenant(&key, None), "an empty name is none");
    }

    #[test]
    fn the_operators_own_name_is_added() {
        let key = parts(Request::get("/").header("authorization", "Bearer a").header("x-team", "red"));
        let team = |parts: &Parts, name: &mut dyn FnMut(&[u8])| {
            name(parts.headers.get("x-team").map_or(&[][..], HeaderValue::as_bytes));
        };
        let blue = parts(Request::get("/").header("authorization", "Bearer a").header("x-team", "blue"));
        let (known, hash) = tenant(&key, Some(&team));
        assert!(known && hash != tenant(&key, None).1 && hash != tenant(&blue, Some(&team)).1);
        assert!(!tenant(&parts(Request::get("/").header("authorization", "Bearer a")), Some(&team)).0, "no name");
        let silent = |_: &Parts, _: &mut dyn FnMut(&[u8])| {};
        assert!(!tenant(&key, Some(&silent)).0);
    }

    #[test]
    fn a_target_is_method_host_path_and_query() {
        let target = |request: Builder| of(|hash| hash_target(&parts(request), hash));
        let one = target(Request::get("http://a/p?q"));
        assert_eq!(one, target(Request::get("/p?q").header("host", "a")), "the host may stand in a header");
        for other in [
            Request::post("http://a/p?q"),
            Request::get("http://b/p?q"),
            Request::get("http://a/o?q"),
            Request::get("http://a/p?r"),
            Request::get("http://a/p"),
            Request::get("/p?q"),
        ] {
            assert_ne!(one, target(other));
        }
    }

    #[test]
    fn headers_count_with_all_their_lines() {
        let headers = |request: Builder| {
            let headers = parts(request).headers;
            of(|hash| hash_headers(&FINGERPRINT_HEADERS, &headers, HeaderNames::of(&headers), hash))
        };
        let one = headers(Request::get("/").header("accept", "a"));
        assert_ne!(one, headers(Request::get("/")));
        assert_ne!(one, headers(Request::get("/").header("accept", "a").header("accept", "a")));
        assert_ne!(one, headers(Request::get("/").header("accept-language", "a")));
        assert_eq!(one, headers(Request::get("/").header("accept", "a").header("x-other", "b")));
    }
}
