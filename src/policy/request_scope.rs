//! Who asks, where, and for which form of an answer: what every fingerprint of a request has in it, beside its body.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, HOST, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::call::Tenant;
use crate::proto::credentials;
use crate::proto::fingerprint::Fingerprinter;

/// Hands on the name of the tenant, if there is one.
pub(crate) type NameTenant = dyn Fn(&Parts, &mut dyn FnMut(&[u8])) + Send + Sync;

/// The headers that make another request of the same body: what the answer looks like, what the body is and which part of
/// what, on what condition it is taken, what is to be done, for whom, from where on, and what the LLM APIs take in headers.
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

/// On whose account the request is made. Returns whether that is known.
///
/// The credentials always count, and all of them: a caller that has one of two right gets nothing from the upstream, and
/// must not be taken for one that has both right. What `own`, the setting `tenant` of a layer, returns may come from a header
/// that any caller can write: it tells apart, and never joins. Only what was authenticated stands for the credentials.
pub(crate) fn hash_tenant(parts: &Parts, own: Option<&NameTenant>, hash: &mut Fingerprinter) -> bool {
    let authenticated = parts.extensions.get().map(Tenant::as_str).filter(|name| !name.is_empty());
    let mut is_known = authenticated.is_some();
    if let Some(name) = authenticated {
        hash.field(b"tenant");
        hash.field(name.as_bytes());
    } else {
        let names = &credentials::HEADERS;
        hash.field(b"credentials");
        hash_headers(names, &parts.headers, hash);
        hash.list(credentials::in_uri(&parts.uri).map(str::as_bytes));
        is_known = credentials::names_any(parts);
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

/// Where the request is sent.
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

/// All lines of those of these headers that are there.
pub(crate) fn hash_headers(names: &[HeaderName], headers: &HeaderMap, hash: &mut Fingerprinter) {
    for name in names {
        let lines = headers.get_all(name);
        let count = lines.iter().count();
        if count > 0 {
            hash.field(name.as_str().as_bytes());
            hash.count(count);
            lines.iter().for_each(|line| hash.field(line.as_bytes()));
        }
    }
    // No header has this name: the list ends here.
    hash.field(b"");
}
