//! What a request is called, so that it is recognised when it comes again.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING,
    CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::layer::{Config, Tenant};
use crate::call::NoStore;
use crate::policy::storable::KeySource;
use crate::proto::credentials;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::idempotency_key::{IdempotencyKey, InvalidKey};
use crate::proto::media_type::is_json;
use crate::rejection::{RejectionFormat, RejectionKind};

/// What to do with a request, by its head.
pub(super) enum DedupDecision {
    /// Nothing: with a reason where it is worth one.
    Aside(Option<&'static str>),
    /// Refuse it.
    Refused(RejectionKind, Option<InvalidKey>),
    /// Read its payload, and ask whether it is known.
    Asks(PendingKey),
}

/// A request whose payload has still to be read.
#[derive(Debug)]
pub(super) struct PendingKey {
    pub(super) named: KeySource,
    /// Where the caller gave it a name; the payload is then not part of it.
    key: Option<Fingerprint>,
    print: Fingerprinter,
    json: bool,
}

/// How a payload was read.
const RAW: u8 = 0;
const CANONICAL_JSON: u8 = 1;

/// The headers that make another request of the same words: what the answer looks like, what the payload is and which
/// part of what, on what condition it is taken, what is to be done, for whom, and what the LLM APIs take in headers.
pub(super) const FINGERPRINT_HEADERS: [HeaderName; 20] = [
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
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("x-http-method-override"),
];

/// What the payload of a request with a key is, beside its bytes. What else may change between two attempts (a cookie
/// that the first was given, say) makes no other request of it.
const PAYLOAD: [HeaderName; 2] = [CONTENT_ENCODING, CONTENT_TYPE];

// === impl DedupDecision ===

impl DedupDecision {
    pub(super) fn of(parts: &Parts, config: &Config) -> Self {
        let unwanted = parts.extensions.get::<NoStore>().is_some();
        if unwanted || !is_unsafe(&parts.method) || upgrades(&parts.headers) {
            return Self::Aside(None);
        }
        let mut scope = Fingerprinter::new("tower-buttress dedup");
        if !config.tenant.name(parts, &mut scope) {
            return Self::Aside(Some("a request without a tenant"));
        }
        place(parts, &mut scope);
        let json = config.json_canonical && is_json(&parts.headers);
        match IdempotencyKey::of(&parts.headers) {
            Err(why) => Self::Refused(RejectionKind::IdempotencyKeyInvalid, Some(why)),
            Ok(Some(key)) => {
                scope.field(b"key");
                scope.field(key.as_str().as_bytes());
                let mut print = Fingerprinter::new("tower-buttress dedup payload");
                hash_headers(&PAYLOAD, &parts.headers, &mut print);
                Self::Asks(PendingKey { named: KeySource::ByKey, key: Some(scope.finish(RAW)), print, json })
            }
            Ok(None) if config.key_required => Self::Refused(RejectionKind::IdempotencyKeyRequired, None),
            Ok(None) if !config.fingerprints || !may_be_fingerprinted(parts) => Self::Aside(None),
            Ok(None) => {
                scope.field(b"fingerprint");
                hash_headers(&config.headers, &parts.headers, &mut scope);
                Self::Asks(PendingKey { named: KeySource::ByFingerprint, key: None, print: scope, json })
            }
        }
    }
}

/// Methods that may change something: only there does doing it once matter, and only there can a caller mean it.
fn is_unsafe(method: &Method) -> bool {
    !method.is_safe() && *method != Method::CONNECT
}

fn upgrades(headers: &HeaderMap) -> bool {
    let mut to = headers.get_all(UPGRADE).iter().peekable();
    if to.peek().is_none() {
        return has_token(headers, &CONNECTION, "upgrade");
    }
    // HTTP/2 in the clear is an offer that nobody takes any more (RFC 9113, 3.1), and some clients make it with every call.
    !to.all(|protocol| protocol == "h2c")
}

/// POST is what is clicked twice; the other unsafe methods either name what they act on or are sent again on purpose.
/// A gRPC call may be a conversation, whose request ends when its answer does: it cannot be read first.
fn may_be_fingerprinted(parts: &Parts) -> bool {
    parts.method == Method::POST
        && RejectionFormat::of(&parts.headers) == RejectionFormat::Http
        && !asks_anew(&parts.headers)
}

/// The caller knows the last answer, and wants another.
fn asks_anew(headers: &HeaderMap) -> bool {
    has_token(headers, &CACHE_CONTROL, "no-cache") || has_token(headers, &CACHE_CONTROL, "no-store")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Where it is sent.
fn place(parts: &Parts, print: &mut Fingerprinter) {
    print.field(parts.method.as_str().as_bytes());
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => parts.headers.get(HOST).map_or(&[][..], HeaderValue::as_bytes),
    };
    print.field(host);
    print.field(parts.uri.path().as_bytes());
    print.list(parts.uri.query().map(str::as_bytes).into_iter());
}

/// All lines of those of these headers that are there.
fn hash_headers(names: &[HeaderName], headers: &HeaderMap, print: &mut Fingerprinter) {
    for name in names {
        let lines = headers.get_all(name);
        let count = lines.iter().count();
        if count > 0 {
            print.field(name.as_str().as_bytes());
            print.count(count);
            lines.iter().for_each(|line| print.field(line.as_bytes()));
        }
    }
    // No header has this name: the list ends here.
    print.field(b"");
}

// === impl Tenant ===

impl Tenant {
    /// Whether there is a tenant; if so, `print` knows it now.
    fn name(&self, parts: &Parts, print: &mut Fingerprinter) -> bool {
        match self {
            Self::Credentials => {
                // All that are there count: a caller who has one of them right and another wrong gets nothing from the
                // upstream, and must not be taken for one who has both right.
                let names = &credentials::HEADERS;
                hash_headers(names, &parts.headers, print);
                names.iter().any(|name| parts.headers.get_all(name).iter().any(credentials::names_account))
            }
            Self::By(name) => {
                let mut named = false;
                name(parts, &mut |tenant| {
                    print.field(tenant);
                    named = !tenant.is_empty();
                });
                named
            }
        }
    }
}

// === impl PendingKey ===

impl PendingKey {
    /// The next piece of the payload.
    pub(super) fn tap(&mut self, data: &[u8]) {
        // JSON is read when it is all there.
        if !self.json {
            self.print.payload(data);
        }
    }

    /// The name of the request, and what it says. `payload` is all of it, once more.
    pub(super) fn finish(mut self, payload: &[u8], trailers: Option<&HeaderMap>) -> (Fingerprint, Fingerprint) {
        let mut form = RAW;
        if self.json {
            match canonical(payload) {
                Some(canonical) => {
                    form = CANONICAL_JSON;
                    self.print.payload(&canonical);
                }
                None => self.print.payload(payload),
            }
        }
        for (name, value) in trailers.into_iter().flatten() {
            self.print.field(name.as_str().as_bytes());
            self.print.field(value.as_bytes());
        }
        let print = self.print.finish(form);
        // Without a key, what it says is its name.
        (self.key.unwrap_or(print), print)
    }
}

#[cfg(feature = "json")]
fn canonical(payload: &[u8]) -> Option<Vec<u8>> {
    crate::proto::canonical_json::canonical(payload)
}

#[cfg(not(feature = "json"))]
fn canonical(_payload: &[u8]) -> Option<Vec<u8>> {
    None
}
