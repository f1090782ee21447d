//! A caller that comes back to an answer, at the URL that it was given.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::answers::{self, Answers, Found};
use super::body::DedupBody;
use super::call_limit::{CallLimit, LimitReached};
use super::config::Config;
use super::key;
use super::offer::{self, Later};
use super::role::DedupRole;
use crate::call::{Reservation, Tenant};
use crate::error::{self, BoxError, LeaderGone};
use crate::event::Event;
use crate::policy::broadcast::Limits;
use crate::proto::digests;
use crate::proto::fingerprint::Fingerprint;
use crate::proto::prefer::Preferences;
use crate::proto::sse::{EventId, EventIds};
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::store::{
    AnswerFuture, BodyPart, Head, OfferedAnswer, Reader, Recorder, ResponseLog, SharedAnswers, Stopped, Store,
};

/// What becomes of a request at the URL of an answer.
pub(super) enum ComeBack {
    Reply(Response<()>),
    Refuse(Rejection, RejectionFormat),
    Read(Box<Returning>),
    /// It is not here: perhaps another process has it.
    Seek(AnswerFuture<Self>),
    Over,
}

/// A caller that came back, until it has its head.
pub(super) struct Returning {
    log: ResponseLog,
    reader: Option<Reader>,
    number: u64,
    bears_ids: bool,
    /// The caller wants the head only.
    is_head: bool,
    head: Option<Arc<Head>>,
    /// The last event that it has; `None`: it reads from the beginning.
    after: Option<EventId>,
    ids: Option<EventIds>,
    skipped: Skipped,
    /// Counts what is held behind what was passed over; `None`: the log holds it anyway.
    rest_charge: Option<Reservation>,
    /// When the call ends for this caller.
    limit: Option<CallLimit>,
    later: Option<(Later, HeaderValue)>,
    format: RejectionFormat,
    config: Arc<Config>,
}

/// How much of what the caller has was passed over.
#[derive(Default)]
struct Skipped {
    is_done: bool,
    /// What was read behind that.
    rest: VecDeque<BodyPart>,
    /// Looks for an event in it, where the answer has ended, or may have.
    probe: Option<EventIds>,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const LAST_EVENT_ID_PARAMETER: &str = "last_event_id=";

/// As many bytes are passed over in one poll. Then others have their turn.
const BYTES_PER_POLL: usize = 256 * 1024;

/// What is counted for one caller of an answer that another process has: what its log holds, and what the store has received
/// and not yet written.
const HELD_FROM_ELSEWHERE: usize = 512 * 1024;

/// As long as the log holds less than this, another part of up to 64 KiB may come.
const LOG_FROM_ELSEWHERE: usize = 64 * 1024;

/// When to come back where it cannot be said yet whether there is such an answer, or no caller more has room.
const SOON: Duration = Duration::from_secs(1);

/// A caller comes back with `token`.
pub(super) fn come_back<St: Store>(
    parts: Parts,
    token: &str,
    answers: &Arc<Answers>,
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
        Some(Found { number, log, tenant, bears_ids, cancellation }) => {
            let answer = OfferedAnswer { number, tenant, bears_ids };
            match last_event(&parts, answer) {
                Ok(after) => read(&parts, answer, (log, cancellation), None, after, config),
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
    // Callers that have only the token share a tenant of its own for each answer's tenant.
    let tenant = parts.extensions.get().cloned().unwrap_or_else(|| Tenant::new(answer.tenant.to_string()));
    let mut charge = config.memory.reserve(Some(&tenant));
    if !charge.grow(HELD_FROM_ELSEWHERE) {
        return refuse(&parts, RejectionKind::DedupStoreFull, &config);
    }
    let limits = Limits { bytes: LOG_FROM_ELSEWHERE, lag: config.limits.lag };
    let (recorder, log) = Recorder::open_behind(limits, charge);
    // Before it is fed: this caller reads from the first part on, and what it has read is dropped.
    let back = read(&parts, answer, (log, None), Some(config.memory.reserve(Some(&tenant))), after, &config);
    recorder.stop_recording();
    shared.feed(token, recorder);
    back
}

/// Who has the token may read. Where a credential comes with it, it must be that of the same tenant.
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

fn read(
    parts: &Parts,
    answer: OfferedAnswer,
    (log, cancellation): (ResponseLog, Option<Cancellation>),
    rest_charge: Option<Reservation>,
    after: Option<EventId>,
    config: &Arc<Config>,
) -> ComeBack {
    let Some(reader) = log.return_reader() else {
        return refuse(parts, RejectionKind::AnswerGone, config);
    };
    let reader = reader.cancelled_by(cancellation.clone());
    let limit = CallLimit::of(&log, cancellation);
    config.emitter.emit(&Event::FlightResumed);
    let preferences = Preferences::of(&parts.headers);
    let respond_async = config.answers.as_ref().is_some_and(|answers| answers.settings().respond_async);
    let may_wait = respond_async && preferences.respond_async;
    let location = HeaderValue::from_str(parts.uri.path()).ok().filter(|_| may_wait).map(|mut location| {
        location.set_sensitive(true);
        location
    });
    ComeBack::Read(Box::new(Returning {
        log,
        reader: Some(reader),
        number: answer.number,
        bears_ids: answer.bears_ids,
        is_head: parts.method == Method::HEAD,
        head: None,
        after: after.filter(|id| id.offset > 0),
        ids: None,
        skipped: Skipped::default(),
        rest_charge,
        limit,
        later: location.map(|location| (Later::new(offer::wait(preferences.wait)), location)),
        format: RejectionFormat::of(&parts.headers),
        config: config.clone(),
    }))
}

#[cold]
fn refuse(parts: &Parts, kind: RejectionKind, config: &Config) -> ComeBack {
    config.emitter.emit(&Event::Refused { kind });
    ComeBack::Refuse(rejection(kind), RejectionFormat::of(&parts.headers))
}

/// Where the answer may be had a moment later, it says so.
fn rejection(kind: RejectionKind) -> Rejection {
    let rejection = Rejection::new(kind);
    match kind {
        RejectionKind::AnswerGone | RejectionKind::EventIdUnknown => rejection,
        _ => rejection.with_retry_after(SOON),
    }
}

/// Why an answer that was stopped, or that another process has, cannot be had here; `None`: its call has failed.
fn not_had(why: &BoxError) -> Option<RejectionKind> {
    if error::find::<Stopped>(why).is_some() {
        return Some(RejectionKind::AnswerGone);
    }
    error::find::<LeaderGone>(why).map(|gone| match gone.is_unreachable {
        true => RejectionKind::SharedCallFailed,
        false => RejectionKind::AnswerGone,
    })
}

/// Whether there is such an answer cannot be said.
#[cold]
fn unknown(parts: &Parts, why: BoxError, config: &Config) -> ComeBack {
    let kind = RejectionKind::SharedCallFailed;
    config.emitter.emit(&Event::Refused { kind });
    ComeBack::Refuse(rejection(kind).with_source(why), RejectionFormat::of(&parts.headers))
}

/// The header wins: an `EventSource` that connects again sends it, to the URL that it was made with.
fn last_event_id<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a [u8]> {
    let in_header = headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
    let mut parameters = uri.query().into_iter().flat_map(|query| query.split('&'));
    let in_query = parameters.find_map(|parameter| parameter.strip_prefix(LAST_EVENT_ID_PARAMETER));
    in_header.or(in_query.map(str::as_bytes)).filter(|id| !id.is_empty())
}

fn status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
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
                Self::Reply(response) => Poll::Ready(response.map(|()| DedupBody::empty())),
                Self::Refuse(rejection, format) => Poll::Ready(DedupBody::refuse(rejection, format)),
                Self::Read(_) | Self::Seek(_) | Self::Over => Poll::Pending,
            };
        }
    }
}

// === impl Returning ===

impl Returning {
    fn poll<B>(&mut self, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
        let Some(reader) = &mut self.reader else { return Poll::Pending };
        let head = match &self.head {
            Some(head) => head.clone(),
            None => match reader.poll_head(cx) {
                Poll::Ready(Ok(head)) => {
                    let has_ids = self.bears_ids && answers::is_offered(head.status(), head.headers());
                    self.ids = has_ids.then(|| EventIds::new(self.number));
                    self.head.insert(head).clone()
                }
                Poll::Ready(Err(why)) => {
                    let rejection = match not_had(&why) {
                        Some(kind) => rejection(kind),
                        None => Rejection::new(RejectionKind::SharedCallFailed).with_source(why),
                    };
                    return Poll::Ready(self.refuse(rejection));
                }
                Poll::Pending => return self.poll_wait(cx),
            },
        };
        if let Some(after) = self.after {
            match ready!(self.poll_skip(after, cx)) {
                Ok(true) => {}
                Ok(false) if self.log.has_failed() => {
                    return Poll::Ready(self.refuse(rejection(RejectionKind::AnswerGone)));
                }
                // Everything was read: an `EventSource` that hears this does not connect again.
                Ok(false) => {
                    self.reader = None;
                    return Poll::Ready(status(StatusCode::NO_CONTENT).map(|()| DedupBody::empty()));
                }
                Err(kind) => return Poll::Ready(self.refuse(rejection(kind))),
            }
        }
        let Some(reader) = self.reader.take() else { return Poll::Pending };
        let now = clock::now();
        let mut response = if self.log.has_ended() { head.to_replay((), now) } else { head.to_returning(()) };
        let headers = response.headers_mut();
        // The upstream's is about its own URL. From a cache a caller would get what it has already, also after a `DELETE`.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let ids = self.ids.take();
        if ids.is_some() {
            headers.remove(CONTENT_LENGTH);
            // The upstream's place for it: here it is at the URL that the caller has.
            headers.remove(CONTENT_LOCATION);
            digests::remove(headers);
        }
        response.extensions_mut().insert(DedupRole::Resumed);
        if self.is_head {
            return Poll::Ready(response.map(|()| DedupBody::empty()));
        }
        let rest = std::mem::take(&mut self.skipped.rest);
        if let Some(charge) = self.rest_charge.take().filter(|_| !rest.is_empty()) {
            self.log.add_charge(charge);
        }
        let limit = self.limit.take();
        Poll::Ready(response.map(|()| DedupBody::shared(reader, &head, ids, rest).limited(limit)))
    }

    /// There is no head yet.
    fn poll_wait<B>(&mut self, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
        if let Some((later, location)) = &mut self.later {
            if let Poll::Ready(wait) = later.poll(cx) {
                let response = offer::accepted(location.clone(), wait);
                self.reader = None;
                return Poll::Ready(response.map(|()| DedupBody::empty()));
            }
        }
        let Some(limit) = &mut self.limit else { return Poll::Pending };
        let kind = match ready!(limit.poll(cx)) {
            LimitReached::Late(_) => RejectionKind::DeadlineExceeded,
            LimitReached::Superseded => RejectionKind::Superseded,
        };
        Poll::Ready(self.refuse(Rejection::new(kind)))
    }

    /// Passes over what the caller has. Returns whether there is more, or may be.
    fn poll_skip(&mut self, after: EventId, cx: &mut Context<'_>) -> Poll<Result<bool, RejectionKind>> {
        let Self { reader: Some(reader), ids: Some(ids), skipped, rest_charge, .. } = self else {
            return Poll::Ready(Err(RejectionKind::EventIdUnknown));
        };
        let mut read = 0;
        while read < BYTES_PER_POLL {
            if skipped.is_done && skipped.probe.is_none() {
                return Poll::Ready(Ok(true));
            }
            // Before it is read: what comes meanwhile, and then ends it, was not read.
            let (mut has_ended, is_behind) = (self.log.has_ended(), self.log.is_behind());
            let part = match reader.next_recorded() {
                // What another process has recorded is still on its way.
                None if is_behind => {
                    let part = ready!(reader.poll_part(cx)).transpose();
                    if let Some(kind) = part.as_ref().err().and_then(not_had) {
                        return Poll::Ready(Err(kind));
                    }
                    has_ended = self.log.has_ended();
                    part.ok().flatten()
                }
                part => part,
            };
            match part {
                Some(BodyPart::Data(data)) => {
                    read += data.len().max(64);
                    if let Some(probe) = &mut skipped.probe {
                        probe.pass(&data);
                        skipped.hold(data, rest_charge)?;
                    } else if let Some(rest) = ids.skip(&data, after.offset) {
                        if !ids.is_at_border() {
                            return Poll::Ready(Err(RejectionKind::EventIdUnknown));
                        }
                        skipped.is_done = true;
                        if self.log.has_ended() || self.log.is_behind() {
                            let mut probe = ids.clone();
                            probe.pass(&rest);
                            skipped.probe = Some(probe);
                        }
                        if !rest.is_empty() {
                            skipped.hold(rest, rest_charge)?;
                        }
                    }
                    if skipped.probe.as_ref().is_some_and(|probe| probe.last_border() > after.offset) {
                        return Poll::Ready(Ok(true));
                    }
                }
                Some(trailers) if skipped.is_done => skipped.rest.push_back(trailers),
                // It is said to have more than there is.
                Some(_) | None if !skipped.is_done => return Poll::Ready(Err(RejectionKind::EventIdUnknown)),
                // It has ended without another event, or goes on.
                _ => return Poll::Ready(Ok(!has_ended)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn refuse<B>(&mut self, rejection: Rejection) -> Response<DedupBody<B>> {
        self.reader = None;
        self.config.emitter.emit(&Event::Refused { kind: rejection.kind() });
        DedupBody::refuse(rejection, self.format)
    }
}

// === impl Skipped ===

impl Skipped {
    fn hold(&mut self, data: Bytes, charge: &mut Option<Reservation>) -> Result<(), RejectionKind> {
        if charge.as_mut().is_some_and(|charge| !charge.grow(data.len())) {
            return Err(RejectionKind::DedupStoreFull);
        }
        self.rest.push_back(BodyPart::Data(data));
        Ok(())
    }
}
