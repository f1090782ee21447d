//! What becomes of a request, and one whose body is being read.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http::request::Parts;

use super::answer::KeyIgnored;
use super::come_back::{self, ComeBack};
use super::config::Config;
use super::key::{DedupDecision, PendingKey};
use super::offer;
use super::request::ReadRequest;
use crate::body::request::{CallBody, RequestRead, RequestReading, Unread};
use crate::call::TenantHash;
use crate::event::Event;
use crate::policy::storable::KeySource;
use crate::proto::dialect::Kind;
use crate::proto::prefer::Preferences;
use crate::rejection::{Rejection, RejectionFormat};
use crate::store::Store;
use crate::store::answers::ResumableRequest;

/// A request whose body is being read and hashed.
pub(super) struct Reading<S, St> {
    service: S,
    store: St,
    config: Arc<Config>,
    key: PendingKey,
    parts: Parts,
    body: RequestReading,
}

/// What becomes of a request.
#[allow(clippy::large_enum_variant, reason = "it lives for a moment")]
pub(super) enum Intake<S, St> {
    /// It passes without dedup.
    Passes(S, Request<CallBody>, Option<KeyIgnored>),
    Refuses(Rejection, RejectionFormat),
    /// It is at the URL of an answer.
    ComesBack(ComeBack),
    /// It is read, and its key hashed.
    Reads(Box<Reading<S, St>>),
    /// It was read: claim its key.
    Claims(Box<ReadRequest<S, St>>),
}

// === impl Intake ===

impl<S, St: Store> Intake<S, St> {
    /// Decides on a new request, by its head.
    pub(super) fn of(service: S, store: &St, config: &Arc<Config>, request: Request<CallBody>) -> Self {
        let (parts, body) = request.into_parts();
        let answers = config.answers.as_ref();
        if let Some((answers, token)) = answers.and_then(|answers| Some((answers, answers.token(&parts.uri)?))) {
            let token = token.to_owned();
            return Self::ComesBack(come_back::come_back(parts, &token, answers, config, store));
        }
        match DedupDecision::of(&parts, config) {
            DedupDecision::Bypass(reason) => {
                if let Some(reason) = reason {
                    config.bypassed(reason);
                }
                Self::Passes(service, Request::from_parts(parts, body), None)
            }
            DedupDecision::Refuse(rejection) => {
                config.emitter.emit(&Event::Refused { kind: rejection.kind() });
                Self::Refuses(rejection, RejectionFormat::of(&parts.headers))
            }
            DedupDecision::Claim(mut key) => {
                let (store, config) = (store.clone(), config.clone());
                match body.in_memory().filter(|data| data.len() <= config.max_body_bytes) {
                    Some(data) => {
                        key.read(data);
                        Self::Claims(claims(service, store, config, key, parts, body))
                    }
                    None => Self::Reads(Box::new(Reading::new(service, store, config, key, parts, body))),
                }
            }
        }
    }
}

// === impl Reading ===

impl<S, St: Store> Reading<S, St> {
    fn new(service: S, store: St, config: Arc<Config>, key: PendingKey, parts: Parts, body: CallBody) -> Self {
        let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
        let body = RequestReading::new(body, bytes, limit, &config.memory, &parts);
        Self { service, store, config, key, parts, body }
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<RequestRead> {
        self.body.poll(cx, |data| self.key.read(data))
    }

    pub(super) fn finish(self, read: RequestRead) -> Intake<S, St> {
        match read {
            RequestRead::Whole { data, trailers } => {
                let Self { service, store, config, key, parts, .. } = self;
                Intake::Claims(claims(service, store, config, key, parts, CallBody::whole(data, trailers)))
            }
            RequestRead::Unread(body, why) => {
                self.config.bypassed(why.reason());
                let ignored = match why {
                    Unread::TooLong => KeyIgnored::BodyTooLarge,
                    Unread::TooSlow => KeyIgnored::BodyTooSlow,
                };
                self.bypass(body, Some(ignored))
            }
            RequestRead::Failed(body) => self.bypass(body, None),
        }
    }

    fn bypass(self, body: CallBody, key_ignored: Option<KeyIgnored>) -> Intake<S, St> {
        let key_ignored = key_ignored.filter(|_| self.key.source == KeySource::ByKey);
        Intake::Passes(self.service, Request::from_parts(self.parts, body), key_ignored)
    }
}

/// A request whose body is in memory, and has been hashed.
fn claims<S, St>(
    service: S,
    store: St,
    config: Arc<Config>,
    key: PendingKey,
    parts: Parts,
    body: CallBody,
) -> Box<ReadRequest<S, St>> {
    let data = body.in_memory().map_or(&[][..], |data| data);
    let PendingKey { source, format, .. } = key;
    let window = match &config.stateless {
        _ if source == KeySource::ByKey => config.window,
        Some(is_stateless) if is_stateless(&parts, data) => config.window,
        _ => config.fingerprint_window.min(config.window),
    };
    let resumable = resumable(&parts, source, format, &config);
    let mut limits = config.limits;
    if let Some((answers, _)) = config.answers.as_ref().zip(resumable) {
        limits.bytes = limits.bytes.max(answers.settings().max_response);
    }
    let key = key.finish(data, body.trailers());
    let owner = TenantHash::in_extensions(&parts.extensions);
    let request = Request::from_parts(parts, body);
    Box::new(ReadRequest {
        service,
        store,
        config,
        key,
        format,
        owner,
        limits,
        source,
        window,
        resumable,
        request,
        claims: 0,
    })
}

/// Whether the caller of this request may come back to its answer: it must send a key or prefer to be answered later. Any
/// other caller that leaves has most likely lost interest, and its call would continue in vain.
fn resumable(parts: &Parts, source: KeySource, format: RejectionFormat, config: &Config) -> Option<ResumableRequest> {
    let settings = config.answers.as_ref()?.settings();
    if format != RejectionFormat::Http {
        return None;
    }
    let preferences = if settings.respond_async { Preferences::of(&parts.headers) } else { Preferences::default() };
    let wait = preferences.respond_async.then(|| offer::wait(preferences.wait));
    // google-genai fails on ids.
    let bears_ids = Kind::of_path(parts.uri.path()) != Some(Kind::Gemini);
    (source == KeySource::ByKey || wait.is_some()).then_some(ResumableRequest { bears_ids, wait })
}
