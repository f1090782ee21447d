//! The key by which a repeated request is recognised.

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};

use super::config::Config;
use crate::call::{NoStore, Tenant};
use crate::policy::request_scope::{hash_headers, hash_target, hash_tenant};
use crate::policy::storable::KeySource;
use crate::proto::credentials;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::header_names::HeaderNames;
use crate::proto::idempotency_key::IdempotencyKey;
use crate::proto::list;
use crate::proto::media_type::is_json;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};

/// The decision on a request, by its head.
pub(super) enum DedupDecision {
    /// Pass it; with an event if the reason is worth one.
    Bypass(Option<&'static str>),
    /// Refuse it.
    Refuse(Rejection),
    /// Read its body, and claim its key.
    Claim(PendingKey),
}

/// The key of a request whose body is still to be read.
#[derive(Debug)]
pub(super) struct PendingKey {
    pub(super) source: KeySource,
    /// Of a refusal of the request.
    pub(super) format: RejectionFormat,
    tenant: Fingerprint,
    /// Set if the request has an `Idempotency-Key`: the body is then not part of the key.
    key: Option<Fingerprint>,
    payload: Fingerprinter,
    is_json: bool,
}

/// The key of a request.
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

/// The headers that are part of the payload of a request with a key. Others (such as a cookie set by the first answer)
/// may change between two attempts of the same request.
const PAYLOAD_HEADERS: [HeaderName; 2] = [CONTENT_ENCODING, CONTENT_TYPE];

// === impl DedupDecision ===

impl DedupDecision {
    pub(super) fn of(parts: &Parts, config: &Config) -> Self {
        let is_unwanted = parts.extensions.get::<NoStore>().is_some();
        if is_unwanted || !is_unsafe(&parts.method) {
            return Self::Bypass(None);
        }
        let present = HeaderNames::of(&parts.headers);
        if is_upgrade(&parts.headers, present) {
            return Self::Bypass(None);
        }
        let mut scope = Fingerprinter::new(PURPOSE);
        if !hash_tenant(parts, present, config.tenant.as_deref(), &mut scope) {
            return Self::Bypass(Some("a request without a tenant"));
        }
        let tenant = scope.clone().finish(RAW);
        hash_target(parts, &mut scope);
        let is_json = config.json_canonical && is_json(&parts.headers);
        let format = RejectionFormat::of(&parts.headers);
        let key = if present.may_have(&IdempotencyKey::HEADER) { IdempotencyKey::of(&parts.headers) } else { Ok(None) };
        match key {
            Err(why) => Self::Refuse(Rejection::new(RejectionKind::IdempotencyKeyInvalid).with_source(why)),
            Ok(Some(key)) => {
                scope.field(b"key");
                scope.field(key.as_str().as_bytes());
                let mut payload = Fingerprinter::new("tower-buttress dedup payload");
                hash_headers(&PAYLOAD_HEADERS, &parts.headers, present, &mut payload);
                let key = Some(scope.finish(RAW));
                Self::Claim(PendingKey { source: KeySource::ByKey, format, tenant, key, payload, is_json })
            }
            Ok(None) if config.key_required => Self::Refuse(Rejection::new(RejectionKind::IdempotencyKeyRequired)),
            Ok(None) if !config.fingerprints || !may_be_fingerprinted(parts, format, present) => Self::Bypass(None),
            Ok(None) => {
                scope.field(b"fingerprint");
                hash_headers(&config.headers, &parts.headers, present, &mut scope);
                let source = KeySource::ByFingerprint;
                Self::Claim(PendingKey { source, format, tenant, key: None, payload: scope, is_json })
            }
        }
    }
}

/// The tenant of a request that comes back to an answer: `None` without credentials, for example from an `EventSource`,
/// which cannot send any.
pub(super) fn named_tenant(parts: &Parts, config: &Config) -> Option<Fingerprint> {
    let mut scope = Fingerprinter::new(PURPOSE);
    let present = HeaderNames::of(&parts.headers);
    let is_known = hash_tenant(parts, present, config.tenant.as_deref(), &mut scope);
    let is_named = is_known || parts.extensions.get::<Tenant>().is_some() || credentials::names_any(parts, present);
    is_named.then(|| scope.finish(RAW))
}

/// Methods that may change state: only for them does a second execution matter.
fn is_unsafe(method: &Method) -> bool {
    !method.is_safe() && *method != Method::CONNECT
}

fn is_upgrade(headers: &HeaderMap, present: HeaderNames) -> bool {
    if !present.may_have(&UPGRADE) && !present.may_have(&CONNECTION) {
        return false;
    }
    let mut protocols = headers.get_all(UPGRADE).iter().peekable();
    if protocols.peek().is_none() {
        return list::members(headers, &CONNECTION).any(|member| list::names(member, "upgrade"));
    }
    // Cleartext HTTP/2 is an offer that servers no longer accept (RFC 9113, 3.1), and some clients make it with every
    // request.
    // request.
    !protocols.all(|protocol| protocol == "h2c")
}

/// Double clicks send POST; other unsafe methods name their target or are repeated on purpose. A gRPC call may be a
/// conversation, whose request ends with its answer: it cannot be read first.
fn may_be_fingerprinted(parts: &Parts, format: RejectionFormat, present: HeaderNames) -> bool {
    parts.method == Method::POST
        && format == RejectionFormat::Http
        && !(present.may_have(&CACHE_CONTROL) && wants_another_answer(&parts.headers))
}

/// The caller knows the last answer, and wants another one.
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

    /// Returns the key. `body` is the complete body.
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
        // Without an `Idempotency-Key`, the payload is the key.
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
