//! To which conversation a request belongs, and how it is recognised when it comes again.

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, Request};

use super::config::Config;
use crate::call::Tenant;
use crate::policy::request_scope::hash_tenant;
use crate::policy::supersede::SupersedeMode;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::idempotency_key::IdempotencyKey;
use crate::rejection::RejectionFormat;

/// What the layer does with a request, by its head.
#[allow(clippy::large_enum_variant, reason = "most are messages, and it lives for a moment")]
pub(super) enum Recognition {
    /// It lets it pass; with an event where there is a reason worth one.
    Passes(Option<&'static str>),
    Message(PendingMessage),
}

/// A message whose body has still to be read.
#[derive(Clone, Debug)]
pub(super) struct PendingMessage {
    pub(super) conversation: Fingerprint,
    /// Its name is worked out where it is needed.
    pub(super) tenant: Fingerprinter,
    pub(super) mode: SupersedeMode,
    payload: Fingerprinter,
}

// === impl Recognition ===

impl Recognition {
    pub(super) fn of(parts: &Parts, config: &Config) -> Self {
        let mode = parts.extensions.get().copied().unwrap_or(config.mode);
        // A gRPC call may be a conversation itself, whose request ends when its answer does: it cannot be read first.
        let is_message = mode != SupersedeMode::Off
            && parts.method == Method::POST
            && RejectionFormat::of(&parts.headers) == RejectionFormat::Http;
        if !is_message {
            return Self::Passes(None);
        }
        match named_by(parts, config) {
            None => Self::Passes(None),
            Some(None) => Self::Passes(Some("a message without a tenant")),
            Some(Some((conversation, tenant))) => {
                Self::Message(PendingMessage { conversation, tenant, mode, payload: payload(parts) })
            }
        }
    }
}

/// The conversation that a request with this head belongs to, whatever else it asks for.
pub(super) fn conversation_of(parts: &Parts, config: &Config) -> Option<Fingerprint> {
    let (conversation, _) = named_by(parts, config)??;
    Some(conversation)
}

/// A conversation of a tenant that was authenticated.
pub(super) fn named(of: &Tenant, conversation: &str) -> Option<Fingerprint> {
    authenticated(of).map(|scope| within(scope, conversation.as_bytes()))
}

/// A tenant that was authenticated.
pub(super) fn account(of: &Tenant) -> Option<Fingerprint> {
    authenticated(of).map(|scope| scope.finish(0))
}

fn authenticated(of: &Tenant) -> Option<Fingerprinter> {
    let mut head = Request::new(()).into_parts().0;
    head.extensions.insert(of.clone());
    tenant(&head)
}

fn within(mut scope: Fingerprinter, conversation: &[u8]) -> Fingerprint {
    scope.field(conversation);
    scope.finish(0)
}

/// The conversation and its tenant. `None`: the request names no conversation; `Some(None)`: it has no tenant.
fn named_by(parts: &Parts, config: &Config) -> Option<Option<(Fingerprint, Fingerprinter)>> {
    let mut named = None;
    config.conversation.as_ref()?(parts, &mut |name| {
        if !name.is_empty() {
            named = Some(tenant(parts).map(|scope| (within(scope.clone(), name), scope)));
        }
    });
    named
}

/// On whose account the request is made, where that is known.
fn tenant(parts: &Parts) -> Option<Fingerprinter> {
    let mut scope = Fingerprinter::new("tower-buttress supersede");
    hash_tenant(parts, None, &mut scope).then_some(scope)
}

/// What another attempt has in common with the first. A client that gives its messages an `Idempotency-Key` says with
/// another one that the same words are another message.
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
    /// The next piece of the body.
    pub(super) fn read(&mut self, data: &[u8]) {
        self.payload.payload(data);
    }

    pub(super) fn payload(&self) -> Fingerprint {
        self.payload.clone().finish(0)
    }
}
