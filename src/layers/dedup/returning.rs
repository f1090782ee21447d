//! A caller that comes back to an answer, at the URL that it was given.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::answers::{Answers, Found};
use super::body::DedupBody;
use super::config::Config;
use super::key;
use super::offer::{self, Later};
use super::role::DedupRole;
use crate::event::Event;
use crate::proto::prefer::Preferences;
use crate::proto::sse::{EventId, EventIds};
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::deadline::Deadline;
use crate::store::{BodyPart, Head, Reader, ResponseLog};

/// What becomes of a request at the URL of an answer.
pub(super) enum ComeBack {
    Reply(Response<()>),
    Refuse(RejectionKind),
    Read(Box<Returning>),
}

/// A caller that came back, until it has its head.
pub(super) struct Returning {
    log: ResponseLog,
    reader: Option<Reader>,
    number: u64,
    head: Option<Arc<Head>>,
    /// The last event that it has; `None`: it reads from the beginning.
    after: Option<EventId>,
    ids: Option<EventIds>,
    answers: Arc<Answers>,
    skipped: Skipped,
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
    /// Looks for an event in it, where the answer has ended.
    probe: Option<EventIds>,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const LAST_EVENT_ID_PARAMETER: &str = "last_event_id=";

/// As many bytes are passed over in one poll. Then others have their turn.
const BYTES_PER_POLL: usize = 256 * 1024;

/// A caller comes back with `token`.
pub(super) fn come_back(parts: &Parts, token: &str, answers: &Arc<Answers>, config: &Arc<Config>) -> ComeBack {
    // Who has the token may read. Where a credential comes with it, it must be that of the same tenant.
    let tenant = key::named_tenant(parts, config);
    let found = answers.find(token, clock::now()).filter(|found| tenant.is_none_or(|tenant| tenant == found.tenant));
    match (&parts.method, found) {
        (&Method::DELETE, found) => {
            if let Some(Found { number, log, .. }) = found {
                answers.remove(number);
                if log.stop() {
                    config.emitter.emit(&Event::FlightStopped);
                }
            }
            ComeBack::Reply(status(StatusCode::NO_CONTENT))
        }
        (&Method::GET, None) => ComeBack::Refuse(RejectionKind::AnswerGone),
        (&Method::GET, Some(found)) => read(parts, found, answers, config),
        _ => {
            let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, DELETE"));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            ComeBack::Reply(response)
        }
    }
}

fn read(parts: &Parts, found: Found, answers: &Arc<Answers>, config: &Arc<Config>) -> ComeBack {
    let after = match last_event_id(&parts.headers, &parts.uri) {
        None => None,
        Some(id) => match EventId::parse(id) {
            Some(id) if id.stream == found.number => Some(id),
            _ => return ComeBack::Refuse(RejectionKind::EventIdUnknown),
        },
    };
    let deadline = [Deadline::of(&parts.extensions), Deadline::current()].into_iter().flatten().min();
    let Some(reader) = found.log.return_reader(deadline) else {
        return ComeBack::Refuse(RejectionKind::AnswerGone);
    };
    config.emitter.emit(&Event::FlightResumed);
    let preferences = Preferences::of(&parts.headers);
    let may_wait = answers.settings().respond_async && (preferences.respond_async || preferences.wait.is_some());
    let location = HeaderValue::from_str(parts.uri.path()).ok().filter(|_| may_wait);
    ComeBack::Read(Box::new(Returning {
        log: found.log,
        reader: Some(reader),
        number: found.number,
        head: None,
        after: after.filter(|id| id.offset > 0),
        ids: None,
        answers: answers.clone(),
        skipped: Skipped::default(),
        later: location.map(|location| (Later::new(offer::wait(preferences.wait)), location)),
        format: RejectionFormat::of(&parts.headers),
        config: config.clone(),
    }))
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

// === impl Returning ===

impl Returning {
    pub(super) fn poll<B>(&mut self, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
        let Some(reader) = &mut self.reader else { return Poll::Pending };
        let head = match &self.head {
            Some(head) => head.clone(),
            None => match reader.poll_head(cx) {
                Poll::Ready(Ok(head)) => {
                    self.ids = self.answers.ids(self.number);
                    self.head.insert(head).clone()
                }
                Poll::Ready(Err(why)) => {
                    let rejection = Rejection::new(RejectionKind::SharedCallFailed).with_source(why);
                    return Poll::Ready(self.refuse(rejection));
                }
                Poll::Pending => {
                    let Some((later, location)) = &mut self.later else { return Poll::Pending };
                    let wait = ready!(later.poll(cx));
                    let response = offer::accepted(location.clone(), wait);
                    self.reader = None;
                    return Poll::Ready(response.map(|()| DedupBody::empty()));
                }
            },
        };
        if let Some(after) = self.after {
            match ready!(self.poll_skip(after, cx)) {
                Ok(true) => {}
                Ok(false) if self.log.has_failed() => {
                    return Poll::Ready(self.refuse(Rejection::new(RejectionKind::AnswerGone)));
                }
                // Everything was read: an `EventSource` that hears this does not connect again.
                Ok(false) => {
                    self.reader = None;
                    return Poll::Ready(status(StatusCode::NO_CONTENT).map(|()| DedupBody::empty()));
                }
                Err(kind) => return Poll::Ready(self.refuse(Rejection::new(kind))),
            }
        }
        let Some(reader) = self.reader.take() else { return Poll::Pending };
        let now = clock::now();
        let mut response = if self.log.has_ended() { head.to_replay((), now) } else { head.to_returning(()) };
        let headers = response.headers_mut();
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        let ids = self.ids.take();
        if ids.is_some() {
            headers.remove(CONTENT_LENGTH);
        }
        response.extensions_mut().insert(DedupRole::Resumed);
        let rest = std::mem::take(&mut self.skipped.rest);
        Poll::Ready(response.map(|()| DedupBody::shared(reader, &head, ids, rest)))
    }

    /// Passes over what the caller has. Returns whether there is more, or may be.
    fn poll_skip(&mut self, after: EventId, cx: &mut Context<'_>) -> Poll<Result<bool, RejectionKind>> {
        let Self { reader: Some(reader), ids: Some(ids), skipped, .. } = self else {
            return Poll::Ready(Err(RejectionKind::EventIdUnknown));
        };
        let mut read = 0;
        while read < BYTES_PER_POLL {
            if skipped.is_done && skipped.probe.is_none() {
                return Poll::Ready(Ok(true));
            }
            match reader.next_recorded() {
                Some(BodyPart::Data(data)) => {
                    read += data.len().max(64);
                    if let Some(probe) = &mut skipped.probe {
                        probe.pass(&data);
                        skipped.rest.push_back(BodyPart::Data(data));
                    } else if let Some(rest) = ids.skip(&data, after.offset) {
                        if !ids.is_at_border() {
                            return Poll::Ready(Err(RejectionKind::EventIdUnknown));
                        }
                        skipped.is_done = true;
                        if self.log.has_ended() {
                            let mut probe = ids.clone();
                            probe.pass(&rest);
                            skipped.probe = Some(probe);
                        }
                        if !rest.is_empty() {
                            skipped.rest.push_back(BodyPart::Data(rest));
                        }
                    }
                }
                Some(trailers) if skipped.is_done => skipped.rest.push_back(trailers),
                // It is said to have more than there is.
                Some(_) | None if !skipped.is_done => return Poll::Ready(Err(RejectionKind::EventIdUnknown)),
                _ => {
                    let has_more = skipped.probe.as_ref().is_some_and(|probe| probe.last_border() > after.offset);
                    return Poll::Ready(Ok(has_more));
                }
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
