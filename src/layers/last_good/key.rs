//! What an answer is kept under.

use std::time::Duration;

use http::header::UPGRADE;
use http::request::Parts;
use http::{HeaderMap, Method};

use super::config::Config;
use crate::call::NoStore;
use crate::policy::last_good::answers::Keys;
use crate::policy::last_good::cache_control::Wishes;
use crate::policy::last_good::normalize::normalize;
use crate::policy::request_scope::{hash_headers, hash_target, hash_tenant};
use crate::proto::dialect::Kind;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::prompt::{self, LastMessage};

/// A request whose body has still to be read.
pub(super) struct PendingKeys {
    pub(super) kind: Kind,
    tenant: Fingerprint,
    scope: Fingerprinter,
    pub(super) wishes: Wishes,
}

/// A request that was read: what is kept of it, and what it takes.
#[derive(Clone, Copy)]
pub(super) struct RequestKeys {
    pub(super) kind: Kind,
    pub(super) keys: Keys,
    pub(super) keep: bool,
    pub(super) max_age: Option<Duration>,
}

/// How a body was hashed.
const EXACT: u8 = 0;
const NORMALIZED: u8 = 1;

// === impl PendingKeys ===

impl PendingKeys {
    /// `Err`: the layer lets the request pass; with an event where there is a reason worth one.
    pub(super) fn of(parts: &Parts, config: &Config) -> Result<Self, Option<&'static str>> {
        let kind = Kind::of_path(parts.uri.path()).filter(|_| parts.method == Method::POST);
        let is_unwanted = parts.extensions.get::<NoStore>().is_some() || parts.headers.contains_key(UPGRADE);
        let wishes = Wishes::of(&parts.headers);
        let is_useless = !wishes.keep && wishes.max_age.is_none();
        let kind = kind.filter(|_| !is_unwanted && !is_useless).ok_or(None)?;
        let mut scope = Fingerprinter::new("tower-buttress last-good");
        if !hash_tenant(parts, config.tenant.as_deref(), &mut scope) {
            return Err(Some("a request without a tenant"));
        }
        let tenant = scope.clone().finish(EXACT);
        hash_target(parts, &mut scope);
        hash_headers(&config.headers, &parts.headers, &mut scope);
        Ok(Self { kind, tenant, scope, wishes })
    }

    /// `None` for a request that the server keeps something of.
    pub(super) fn finish(self, body: &[u8], trailers: Option<&HeaderMap>, normalized: bool) -> Option<RequestKeys> {
        if prompt::has_server_state(self.kind, body) {
            return None;
        }
        let mut scope = self.scope;
        for (name, value) in trailers.into_iter().flatten() {
            scope.field(name.as_str().as_bytes());
            scope.field(value.as_bytes());
        }
        let normal = LastMessage::of(self.kind, body).filter(|_| normalized).and_then(|message| {
            let text = normalize(&message.text()?)?;
            let mut hash = scope.clone();
            [message.before, text.as_bytes(), message.after].iter().for_each(|field| hash.field(field));
            Some(hash.finish(NORMALIZED))
        });
        scope.payload(body);
        let keys = Keys { tenant: self.tenant, exact: scope.finish(EXACT), normal };
        Some(RequestKeys { kind: self.kind, keys, keep: self.wishes.keep, max_age: self.wishes.max_age })
    }
}
