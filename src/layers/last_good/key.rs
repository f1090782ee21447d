//! The keys of an answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::request::Parts;
use http::{HeaderMap, Method};

use super::config::Config;
use super::similar::Question;
use crate::call::{NoStore, TenantHash};
use crate::policy::last_good::cache::AnswerKeys;
use crate::policy::last_good::cache_control::Wishes;
use crate::policy::last_good::normalize::normalize;
use crate::policy::last_good::similar;
use crate::policy::request_scope::{hash_headers, hash_target, hash_tenant};
use crate::proto::dialect::Kind;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::header_names::HeaderNames;
use crate::proto::output_format;
use crate::proto::prompt::{self, LastMessage};
use crate::store::LastGoodKeys;

/// The keys of a request whose body is still to be read.
pub(super) struct PendingKeys {
    pub(super) kind: Kind,
    tenant: Fingerprint,
    owner: Option<TenantHash>,
    scope: Fingerprinter,
    pub(super) wishes: Wishes,
}

/// A request that was read: the stored parts, and their cost.
#[derive(Clone)]
pub(super) struct RequestKeys {
    pub(super) kind: Kind,
    pub(super) keys: AnswerKeys,
    pub(super) keep: bool,
    pub(super) max_age: Option<Duration>,
    /// The question, if similar requests are compared.
    pub(super) question: Option<Arc<Question>>,
}

impl RequestKeys {
    /// The keys for other processes.
    pub(super) fn shared(&self) -> LastGoodKeys {
        let AnswerKeys { tenant, owner, exact, normal } = self.keys;
        LastGoodKeys::new(tenant, owner, exact, normal)
    }
}

/// How a body was hashed.
const EXACT: u8 = 0;
const NORMALIZED: u8 = 1;
const SCOPE: u8 = 2;

// === impl PendingKeys ===

impl PendingKeys {
    /// `Err`: the layer passes the request; with an event if the reason is worth one.
    pub(super) fn of(parts: &Parts, config: &Config) -> Result<Self, Option<&'static str>> {
        let kind = Kind::of_path(parts.uri.path()).filter(|_| parts.method == Method::POST);
        let is_unwanted = parts.extensions.get::<NoStore>().is_some() || parts.headers.contains_key(UPGRADE);
        let wishes = Wishes::of(&parts.headers);
        let is_useless = !wishes.keep && wishes.max_age.is_none();
        let kind = kind.filter(|_| !is_unwanted && !is_useless).ok_or(None)?;
        let mut scope = Fingerprinter::new("tower-buttress last-good");
        let present = HeaderNames::of(&parts.headers);
        if !hash_tenant(parts, present, config.tenant.as_deref(), &mut scope) {
            return Err(Some("a request without a tenant"));
        }
        let tenant = scope.clone().finish(EXACT);
        hash_target(parts, &mut scope);
        hash_headers(&config.headers, &parts.headers, present, &mut scope);
        Ok(Self { kind, tenant, owner: TenantHash::in_extensions(&parts.extensions), scope, wishes })
    }

    /// `None` for a request that stores state at the server.
    pub(super) fn finish(self, body: &[u8], trailers: Option<&HeaderMap>, config: &Config) -> Option<RequestKeys> {
        if prompt::has_server_state(self.kind, body) {
            return None;
        }
        let mut scope = self.scope;
        for (name, value) in trailers.into_iter().flatten() {
            scope.field(name.as_str().as_bytes());
            scope.field(value.as_bytes());
        }
        let wanted = config.normalized || config.similar.is_some();
        let message = wanted.then(|| LastMessage::of(self.kind, body)).flatten();
        let message = message.and_then(|message| Some((message.text()?, message)));
        let hash = |fields: [&[u8]; 3], form| {
            let mut hash = scope.clone();
            fields.iter().for_each(|field| hash.field(field));
            hash.finish(form)
        };
        let normal = message.as_ref().filter(|_| config.normalized).and_then(|(text, message)| {
            Some(hash([message.before, normalize(text)?.as_bytes(), message.after], NORMALIZED))
        });
        let question = config.similar.as_ref().zip(message).filter(|(_, (text, _))| similar::is_comparable(text));
        let question =
            question.filter(|_| output_format::wants_text(self.kind, body)).map(|(similar, (text, message))| {
                let scope = hash([message.before, similar.id().as_bytes(), message.after], SCOPE);
                Arc::new(Question { scope, text })
            });
        scope.payload(body);
        let keys = AnswerKeys { tenant: self.tenant, owner: self.owner, exact: scope.finish(EXACT), normal };
        let Wishes { keep, max_age } = self.wishes;
        Some(RequestKeys { kind: self.kind, keys, keep, max_age, question })
    }
}
