//! The conversation of a request, and the key by which a repetition is recognised.

use std::hash::{Hash, Hasher};

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Extensions, HeaderValue, Method, Request};

use super::config::Config;
use crate::admission::CallerHasher;
use crate::call::Tenant;
use crate::policy::request_scope::hash_tenant;
use crate::policy::supersede::SupersedeMode;
use crate::proto::credentials;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::header_names::HeaderNames;
use crate::proto::idempotency_key::IdempotencyKey;
use crate::rejection::RejectionFormat;

/// The decision on a request, by its head.
#[allow(clippy::large_enum_variant, reason = "most are messages, and it lives for a moment")]
pub(super) enum Recognition {
    /// Pass it; with an event if the reason is worth one.
    Passes(Option<&'static str>),
    Message(PendingMessage),
}

/// A message whose body is still to be read.
#[derive(Clone, Debug)]
pub(super) struct PendingMessage {
    pub(super) conversation: Fingerprint,
    /// A hash of it.
    pub(super) tenant: u64,
    /// Whether the tenant is authenticated.
    pub(super) is_authenticated: bool,
    scope: Fingerprinter,
    pub(super) mode: SupersedeMode,
    payload: Fingerprinter,
}

/// Whether a request may be a message, if it names a conversation.
pub(super) fn is_message<B>(request: &Request<B>, config: &Config) -> bool {
    // A gRPC call may be a conversation of its own, whose request ends with its answer: it cannot be read first.
    *request.method() == Method::POST
        && RejectionFormat::of(request.headers()) == RejectionFormat::Http
        && mode(request.extensions(), config) != SupersedeMode::Off
}

fn mode(extensions: &Extensions, config: &Config) -> SupersedeMode {
    extensions.get().copied().unwrap_or(config.mode)
}

// === impl Recognition ===

impl Recognition {
    /// For a request that [may be a message](is_message).
    pub(super) fn of(parts: &Parts, config: &Config, callers: &CallerHasher) -> Self {
        let mode = mode(&parts.extensions, config);
        match named_by(parts, config) {
            None => Self::Passes(None),
            Some(None) => Self::Passes(Some("a message without a tenant")),
            Some(Some((scope, conversation))) => {
                let (tenant, is_authenticated) = (account(parts, callers), authenticated(parts).is_some());
                let payload = payload(parts);
                Self::Message(PendingMessage { conversation, tenant, is_authenticated, scope, mode, payload })
            }
        }
    }
}

/// The conversation of a request with this head, whatever the request is.
pub(super) fn conversation_of(parts: &Parts, config: &Config) -> Option<Fingerprint> {
    named_by(parts, config)?.map(|(_, conversation)| conversation)
}

/// A conversation of an authenticated tenant.
pub(super) fn named(of: &Tenant, conversation: &str) -> Option<Fingerprint> {
    let mut head = Request::new(()).into_parts().0;
    head.extensions.insert(of.clone());
    tenant(&head).map(|scope| within(scope, conversation.as_bytes()))
}

/// The account of an authenticated tenant.
pub(super) fn account_of(tenant: &Tenant, callers: &CallerHasher) -> u64 {
    let mut account = callers.hasher();
    tenant.as_str().hash(&mut account);
    account.finish()
}

/// The account of a request: a hash of its tenant, or of its credentials.
fn account(parts: &Parts, callers: &CallerHasher) -> u64 {
    if let Some(tenant) = authenticated(parts) {
        return account_of(tenant, callers);
    }
    let mut account = callers.hasher();
    credentials::hash_account(&parts.headers, &mut account);
    credentials::in_uri(&parts.uri).for_each(|value| value.hash(&mut account));
    account.finish()
}

fn authenticated(parts: &Parts) -> Option<&Tenant> {
    parts.extensions.get::<Tenant>().filter(|tenant| !tenant.as_str().is_empty())
}

fn within(mut scope: Fingerprinter, conversation: &[u8]) -> Fingerprint {
    scope.field(conversation);
    scope.finish(0)
}

/// The tenant and its conversation. `None`: the request names none; `Some(None)`: it has no tenant.
fn named_by(parts: &Parts, config: &Config) -> Option<Option<(Fingerprinter, Fingerprint)>> {
    let mut named = None;
    config.conversation.as_ref()?(parts, &mut |name| {
        if !name.is_empty() {
            named = Some(tenant(parts).map(|scope| (scope.clone(), within(scope, name))));
        }
    });
    named
}

/// The tenant of the request, if known.
fn tenant(parts: &Parts) -> Option<Fingerprinter> {
    let mut scope = Fingerprinter::new("tower-buttress supersede");
    hash_tenant(parts, HeaderNames::of(&parts.headers), None, &mut scope).then_some(scope)
}

/// The parts that another attempt has in common with the first. A different `Idempotency-Key` makes the same words
/// another message.
fn payload(parts: &Parts) -> Fingerprinter {
    let mut payload = Fingerprinter::new("tower-buttress supersede message");
    payload.field(parts.uri.path_and_query().map_or(&b"/"[..], |path| path.as_str().as_bytes()));
    for name in [&CONTENT_TYPE, &IdempotencyKey::HEADER] {
        payload.field(parts.headers.get(name).map_or(&[][..], HeaderValue::as_bytes));
    }
    payload
}

// === impl PendingMessage ===

impl PendingMessage {
    /// Hashes the next piece of the body.
    pub(super) fn read(&mut self, data: &[u8]) {
        self.payload.payload(data);
    }

    /// Identifies the tenant in every process.
    pub(super) fn tenant_print(&self) -> Fingerprint {
        self.scope.clone().finish(0)
    }

    pub(super) fn payload(&self) -> Fingerprint {
        self.payload.clone().finish(0)
    }
}
