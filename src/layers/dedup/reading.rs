//! A request whose body is being read.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::answer::KeyIgnored;
use super::answers::ResumableRequest;
use super::config::Config;
use super::key::PendingKey;
use super::offer;
use super::request::ReadRequest;
use crate::body::collect::{Collect, Collected, collect};
use crate::body::request::CallBody;
use crate::call::Tenant;
use crate::error::BoxError;
use crate::policy::storable::KeySource;
use crate::proto::dialect::Kind;
use crate::proto::prefer::Preferences;
use crate::rejection::RejectionFormat;
use crate::rt::clock;
use crate::rt::timeout::Timeout;
use crate::store::{ClaimRequest, Store};

/// A request whose body is being read, and hashed while it is.
pub(super) struct Reading<S, St> {
    service: S,
    store: St,
    config: Arc<Config>,
    key: PendingKey,
    parts: Parts,
    body: Collect<CallBody>,
    timeout: Timeout,
}

/// What reading a request led to.
pub(super) enum Read<S, St> {
    /// The request is whole: its key is to be claimed.
    Whole(ReadRequest<S, St>),
    /// The request passes unrecognised.
    Bypassed { service: S, request: Request<CallBody>, key_ignored: Option<KeyIgnored> },
}

/// How far the body was read.
pub(super) enum ReadSoFar {
    Collected(Collected<CallBody>),
    TooSlow(CallBody),
    Failed(BoxError),
}

// === impl Reading ===

impl<S, St: Store> Reading<S, St> {
    pub(super) fn new(
        service: S,
        store: St,
        config: Arc<Config>,
        key: PendingKey,
        parts: Parts,
        body: CallBody,
    ) -> Self {
        let reservation = config.memory.reserve(parts.extensions.get::<Tenant>());
        let body = collect(body, config.max_body_bytes, reservation);
        Self { service, store, config, key, parts, body, timeout: Timeout::default() }
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<ReadSoFar> {
        match self.body.poll_tapped(cx, |data| self.key.read(data)) {
            Poll::Ready(Ok(collected)) => return Poll::Ready(ReadSoFar::Collected(collected)),
            Poll::Ready(Err(why)) => return Poll::Ready(ReadSoFar::Failed(why)),
            Poll::Pending => {}
        }
        ready!(self.timeout.poll_after(self.config.read_timeout, cx));
        self.body.give_up().map_or(Poll::Pending, |body| Poll::Ready(ReadSoFar::TooSlow(CallBody::new(body))))
    }

    pub(super) fn finish(self, read: ReadSoFar) -> Read<S, St> {
        match read {
            ReadSoFar::Collected(Collected::Whole { data, trailers }) => {
                let Self { service, store, config, key, parts, .. } = self;
                let source = key.source;
                let key = key.finish(&data, trailers.as_ref());
                let resumable = resumable(&parts, source, &config);
                let mut limits = config.limits;
                if let Some((answers, _)) = config.answers.as_ref().zip(resumable) {
                    limits.bytes = limits.bytes.max(answers.settings().max_response);
                }
                let claim = ClaimRequest {
                    key: key.key,
                    payload: key.payload,
                    tenant: key.tenant,
                    has_client_key: source == KeySource::ByKey,
                    now: clock::now(),
                    limits,
                };
                let window = match &config.stateless {
                    _ if source == KeySource::ByKey => config.window,
                    Some(is_stateless) if is_stateless(&parts, &data) => config.window,
                    _ => config.fingerprint_window.min(config.window),
                };
                let request = Request::from_parts(parts, CallBody::whole(data, trailers));
                Read::Whole(ReadRequest {
                    service,
                    store,
                    config,
                    claim,
                    source,
                    window,
                    resumable,
                    request,
                    claims: 0,
                })
            }
            ReadSoFar::Collected(Collected::TooLarge(body)) => {
                self.config.bypassed("a request whose body is too long to be read first");
                self.bypass(CallBody::new(body), Some(KeyIgnored::BodyTooLarge))
            }
            ReadSoFar::TooSlow(body) => {
                self.config.bypassed("a request whose body takes too long to come to be read first");
                self.bypass(body, Some(KeyIgnored::BodyTooSlow))
            }
            // It fails at the upstream, as it would have without this layer.
            ReadSoFar::Failed(why) => self.bypass(CallBody::failed(why), None),
        }
    }

    fn bypass(self, body: CallBody, key_ignored: Option<KeyIgnored>) -> Read<S, St> {
        let key_ignored = key_ignored.filter(|_| self.key.source == KeySource::ByKey);
        Read::Bypassed { service: self.service, request: Request::from_parts(self.parts, body), key_ignored }
    }
}

/// Whether the caller of this request may come back to its answer: it must have said that it may, by a key of its own or by
/// preferring to be answered later. Any other that leaves has most likely lost interest, and the call would go on for nothing.
fn resumable(parts: &Parts, source: KeySource, config: &Config) -> Option<ResumableRequest> {
    let settings = config.answers.as_ref()?.settings();
    if RejectionFormat::of(&parts.headers) != RejectionFormat::Http {
        return None;
    }
    let preferences = if settings.respond_async { Preferences::of(&parts.headers) } else { Preferences::default() };
    let wait = preferences.respond_async.then(|| offer::wait(preferences.wait));
    // google-genai fails on ids.
    let bears_ids = Kind::of_path(parts.uri.path()) != Some(Kind::Gemini);
    (source == KeySource::ByKey || wait.is_some()).then_some(ResumableRequest { bears_ids, wait })
}
