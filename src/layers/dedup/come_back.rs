//! A request at the URL of an answer.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{ALLOW, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::body::DedupBody;
use super::config::Config;
use super::key;
use super::returning::{Returning, rejection, status};
use crate::body::response::LayerBody;
use crate::call::Tenant;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::broadcast::LogLimits;
use crate::proto::fingerprint::Fingerprint;
use crate::proto::sse::EventId;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::store::answers::{self, FoundAnswer, ResumableAnswers};
use crate::store::{AnswerFuture, OfferedAnswer, Recorder, SharedAnswers, Store};

/// The result of a request at the URL of an answer.
pub(super) enum ComeBack {
    Reply(Response<()>),
    Refuse(Rejection, RejectionFormat),
    Read(Box<Returning>),
    /// It is not in this process: another one may have it.
    Seek(AnswerFuture<Self>),
    Over,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const LAST_EVENT_ID_PARAMETER: &str = "last_event_id=";

/// The memory counted for one caller of another process's answer: its log, and the data that the store has received and
/// not yet written.
const HELD_FROM_ELSEWHERE: usize = 512 * 1024;

/// While the log holds less than this, another part of up to 64 KiB may come.
const LOG_FROM_ELSEWHERE: usize = 64 * 1024;

/// Handles a caller that comes back with `token`.
pub(super) fn come_back<St: Store>(
    parts: Parts,
    token: &str,
    answers: &Arc<ResumableAnswers>,
    config: &Arc<Config>,
    store: &St,
) -> ComeBack {
    if !matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE) {
        let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, DELETE"));
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        return ComeBack::Reply(response);
    }
    let found = answers.find(token, clock::now());
    if found.is_none() {
        if let Some(shared) = store.answers() {
            return ComeBack::Seek(Box::pin(seek(parts, answers::hash(token), shared, config.clone())));
        }
    }
    let found = found.filter(|found| may_read(&parts, found.tenant, config));
    match found {
        found if parts.method == Method::DELETE => {
            if let Some(found) = found {
                answers.stop(found.number, &config.emitter);
            }
            ComeBack::Reply(status(StatusCode::NO_CONTENT))
        }
        None => refuse(&parts, RejectionKind::AnswerGone, config),
        Some(FoundAnswer { number, log, tenant, bears_ids, cancellation }) => {
            let answer = OfferedAnswer { number, tenant, bears_ids };
            match last_event(&parts, answer) {
                Ok(after) => {
                    let returning = Returning::new(&parts, answer, (log, cancellation), None, after, config);
                    read(&parts, returning, config)
                }
                Err(kind) => refuse(&parts, kind, config),
            }
        }
    }
}

/// The same, for an answer that another process may have.
async fn seek(parts: Parts, token: Fingerprint, shared: Arc<dyn SharedAnswers>, config: Arc<Config>) -> ComeBack {
    let found = match shared.find(token).await {
        Ok(found) => found.filter(|answer| may_read(&parts, answer.tenant, &config)),
        Err(why) => return unknown(&parts, why, &config),
    };
    if parts.method == Method::DELETE {
        return match found {
            Some(_) => match shared.stop(token).await {
                Ok(()) => ComeBack::Reply(status(StatusCode::NO_CONTENT)),
                Err(why) => unknown(&parts, why, &config),
            },
            None => ComeBack::Reply(status(StatusCode::NO_CONTENT)),
        };
    }
    let Some(answer) = found else { return refuse(&parts, RejectionKind::AnswerGone, &config) };
    let after = match last_event(&parts, answer) {
        Ok(after) => after,
        Err(kind) => return refuse(&parts, kind, &config),
    };
    // Callers with only a token share one tenant per answer's tenant.
    let tenant = parts.extensions.get().cloned().unwrap_or_else(|| Tenant::new(answer.tenant.to_string()));
    let mut charge = config.memory.reserve(Some(&tenant));
    if !charge.grow(HELD_FROM_ELSEWHERE) {
        return refuse(&parts, RejectionKind::DedupStoreFull, &config);
    }
    let limits = LogLimits { bytes: LOG_FROM_ELSEWHERE, lag: config.limits.lag };
    let (recorder, log) = Recorder::open_behind(limits, charge);
    // Before it is fed: this caller reads from the first part on, and parts that it has read are dropped.
    let rest_charge = config.memory.reserve(Some(&tenant));
    let returning = Returning::new(&parts, answer, (log, None), Some(rest_charge), after, &config);
    recorder.stop_recording();
    shared.feed(token, recorder);
    read(&parts, returning, &config)
}

/// The token permits reading. If a credential comes with it, it must be of the same tenant.
fn may_read(parts: &Parts, tenant: Fingerprint, config: &Config) -> bool {
    key::named_tenant(parts, config).is_none_or(|named| named == tenant)
}

/// The last event that the caller has.
fn last_event(parts: &Parts, answer: OfferedAnswer) -> Result<Option<EventId>, RejectionKind> {
    match last_event_id(&parts.headers, &parts.uri) {
        None => Ok(None),
        Some(id) => match EventId::parse(id) {
            Some(id) if id.stream == answer.number => Ok(Some(id)),
            _ => Err(RejectionKind::EventIdUnknown),
        },
    }
}

fn read(parts: &Parts, returning: Option<Returning>, config: &Config) -> ComeBack {
    match returning {
        Some(returning) => ComeBack::Read(Box::new(returning)),
        None => refuse(parts, RejectionKind::AnswerGone, config),
    }
}

#[cold]
fn refuse(parts: &Parts, kind: RejectionKind, config: &Config) -> ComeBack {
    config.emitter.emit(&Event::Refused { kind });
    ComeBack::Refuse(rejection(kind), RejectionFormat::of(&parts.headers))
}

/// The store cannot tell whether there is such an answer.
#[cold]
fn unknown(parts: &Parts, why: BoxError, config: &Config) -> ComeBack {
    let kind = RejectionKind::SharedCallFailed;
    config.emitter.emit(&Event::Refused { kind });
    ComeBack::Refuse(rejection(kind).with_source(why), RejectionFormat::of(&parts.headers))
}

/// The header takes precedence: a reconnecting `EventSource` sends it to its original URL.
fn last_event_id<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a [u8]> {
    let in_header = headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
    let mut parameters = uri.query().into_iter().flat_map(|query| query.split('&'));
    let in_query = parameters.find_map(|parameter| parameter.strip_prefix(LAST_EVENT_ID_PARAMETER));
    in_header.or(in_query.map(str::as_bytes)).filter(|id| !id.is_empty())
}

// === impl ComeBack ===

impl ComeBack {
    pub(super) fn poll<B>(&mut self, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
        loop {
            if let Self::Seek(seeking) = self {
                *self = ready!(seeking.as_mut().poll(cx));
                continue;
            }
            if let Self::Read(returning) = self {
                return returning.poll(cx);
            }
            return match std::mem::replace(self, Self::Over) {
                Self::Reply(response) => Poll::Ready(response.map(|()| DedupBody::over())),
                Self::Refuse(rejection, format) => Poll::Ready(DedupBody::refuse(rejection, format)),
                Self::Read(_) | Self::Seek(_) | Self::Over => Poll::Pending,
            };
        }
    }
}
