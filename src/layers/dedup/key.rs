//! What a request is recognised by when it is sent again.

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};

use super::config::Config;
use crate::call::{NoStore, Tenant};
use crate::policy::request_scope::{hash_headers, hash_target, hash_tenant};
use crate::policy::storable::KeySource;
use crate::proto::credentials;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::idempotency_key::{IdempotencyKey, InvalidKey};
use crate::proto::list;
use crate::proto::media_type::is_json;
use crate::rejection::{RejectionFormat, RejectionKind};

/// What the layer does with a request, by its head.
pub(super) enum DedupDecision {
    /// It lets it pass; with an event where there is a reason worth one.
    Bypass(Option<&'static str>),
    /// It refuses it.
    Refuse(RejectionKind, Option<InvalidKey>),
    /// It reads its body, and claims its key.
    Claim(PendingKey),
}

/// The key of a request whose body has still to be read.
#[derive(Debug)]
pub(super) struct PendingKey {
    pub(super) source: KeySource,
    tenant: Fingerprint,
    /// Where the caller gave an `Idempotency-Key`: the body is then not part of the key.
    key: Option<Fingerprint>,
    payload: Fingerprinter,
    is_json: bool,
}

/// By what a request is recognised.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestKey {
    pub(super) key: Fingerprint,
    pub(super) payload: Fingerprint,
    pub(super) tenant: Fingerprint,
}

const PURPOSE: &str = "tower-buttress dedup";

/// How a payload was hashed.
const RAW: u8 = 0;
const CANONICAL_JSON: u8 = 1;

/// The headers that are part of the payload of a request with a key. Others may change between two attempts (a cookie that
/// the first one was given, say) without making it another request.
const PAYLOAD_HEADERS: [HeaderName; 2] = [CONTENT_ENCODING, CONTENT_TYPE];

// === impl DedupDecision ===

impl DedupDecision {
    pub(super) fn of(parts: &Parts, config: &Config) -> Self {
        let is_unwanted = parts.extensions.get::<NoStore>().is_some();
        if is_unwanted || !is_unsafe(&parts.method) || is_upgrade(&parts.headers) {
            return Self::Bypass(None);
        }
        let mut scope = Fingerprinter::new(PURPOSE);
        if !hash_tenant(parts, config.tenant.as_deref(), &mut scope) {
            return Self::Bypass(Some("a request without a tenant"));
        }
        let tenant = scope.clone().finish(RAW);
        hash_target(parts, &mut scope);
        let is_json = config.json_canonical && is_json(&parts.headers);
        match IdempotencyKey::of(&parts.headers) {
            Err(why) => Self::Refuse(RejectionKind::IdempotencyKeyInvalid, Some(why)),
            Ok(Some(key)) => {
                scope.field(b"key");
                scope.field(key.as_str().as_bytes());
                let mut payload = Fingerprinter::new("tower-buttress dedup payload");
                hash_headers(&PAYLOAD_HEADERS, &parts.headers, &mut payload);
                let key = Some(scope.finish(RAW));
                Self::Claim(PendingKey { source: KeySource::ByKey, tenant, key, payload, is_json })
            }
            Ok(None) if config.key_required => Self::Refuse(RejectionKind::IdempotencyKeyRequired, None),
            Ok(None) if !config.fingerprints || !may_be_fingerprinted(parts) => Self::Bypass(None),
            Ok(None) => {
                scope.field(b"fingerprint");
                hash_headers(&config.headers, &parts.headers, &mut scope);
                let source = KeySource::ByFingerprint;
                Self::Claim(PendingKey { source, tenant, key: None, payload: scope, is_json })
            }
        }
    }
}

/// The tenant that a request names which comes back to an answer: `None` where it names none at all, as an `EventSource`, which
/// cannot.
pub(super) fn named_tenant(parts: &Parts, config: &Config) -> Option<Fingerprint> {
    let mut scope = Fingerprinter::new(PURPOSE);
    let is_known = hash_tenant(parts, config.tenant.as_deref(), &mut scope);
    let is_named = is_known || parts.extensions.get::<Tenant>().is_some() || credentials::names_any(parts);
    is_named.then(|| scope.finish(RAW))
}

/// Methods that may change something: only there does it matter whether a request is executed once or twice.
fn is_unsafe(method: &Method) -> bool {
    !method.is_safe() && *method != Method::CONNECT
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter().peekable();
    if protocols.peek().is_none() {
        return list::members(headers, &CONNECTION).any(|member| list::names(member, "upgrade"));
    }
    // HTTP/2 in the clear is an offer that no server takes any more (RFC 9113, 3.1), and some clients make it with every
    // request.
    !protocols.all(|protocol| protocol == "h2c")
}

/// POST is what is clicked twice; the other unsafe methods either name what they act on or are sent again on purpose.
/// A gRPC call may be a conversation, whose request ends when its answer does: it cannot be read first.
fn may_be_fingerprinted(parts: &Parts) -> bool {
    parts.method == Method::POST
        && RejectionFormat::of(&parts.headers) == RejectionFormat::Http
        && !wants_another_answer(&parts.headers)
}

/// The caller knows the last answer, and wants another.
fn wants_another_answer(headers: &HeaderMap) -> bool {
    list::members(headers, &CACHE_CONTROL)
        .any(|member| list::names(member, "no-cache") || list::names(member, "no-store"))
}

// === impl PendingKey ===

impl PendingKey {
    /// Hashes the next piece of the body.
    pub(super) fn read(&mut self, data: &[u8]) {
        // JSON is hashed when it is complete.
        if !self.is_json {
            self.payload.payload(data);
        }
    }

    /// The key. `body` is all of it, once more.
    pub(super) fn finish(mut self, body: &[u8], trailers: Option<&HeaderMap>) -> RequestKey {
        let mut form = RAW;
        if self.is_json {
            match canonical(body) {
                Some(canonical) => {
                    form = CANONICAL_JSON;
                    self.payload.payload(&canonical);
                }
                None => self.payload.payload(body),
            }
        }
        for (name, value) in trailers.into_iter().flatten() {
            self.payload.field(name.as_str().as_bytes());
            self.payload.field(value.as_bytes());
        }
        let payload = self.payload.finish(form);
        // Without an `Idempotency-Key`, what the request says is its key.
        RequestKey { key: self.key.unwrap_or(payload), payload, tenant: self.tenant }
    }
}

#[cfg(feature = "json")]
fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    crate::proto::canonical_json::canonical(body)
}

#[cfg(not(feature = "json"))]
fn canonical(_body: &[u8]) -> Option<Vec<u8>> {
    None
}
